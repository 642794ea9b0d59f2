/** The struct by which libraries exchange tensors: DLManagedTensorVersioned of DLPack 1.x. */
import { InputError } from "../errors.ts";
import { type DType, dtypeBytes } from "./dtype.ts";
import { denseStrides } from "./shape.ts";

/**
 * Bytes at an address as a view of exactly that length. It throws for memory that is not there when
 * it can know; native memory cannot.
 */
export type MemoryView = (address: number, byteLength: number) => DataView;

/** What a DLManagedTensorVersioned says. Shape and strides count elements. */
export interface DLPackTensor {
  /** Address of element [0, 0, ...], the byte offset included; 0 only without elements. */
  address: number;
  deviceType: number;
  deviceId: number;
  shape: number[];
  strides: number[];
  dtype: DType;
  readOnly: boolean;
  /** Address of `void (*)(DLManagedTensorVersioned*)`, or 0. */
  deleter: number;
}

/** Device types of the DLPack specification that flashbun knows. */
export const deviceTypes = { cpu: 1, cuda: 2, cudaHost: 3 } as const;

const major = 1;
const minor = 1;
const readOnlyFlag = 1n;
const axesLimit = 8;
const addressLimit = 2 ** 47;

/** Byte offsets: the managed struct, the DLTensor in it, then (ours) shape, strides and a flag. */
const at = {
  major: 0,
  minor: 4,
  context: 8,
  deleter: 16,
  flags: 24,
  data: 32,
  deviceType: 40,
  deviceId: 44,
  axes: 48,
  typeCode: 52,
  typeBits: 53,
  typeLanes: 54,
  shape: 56,
  strides: 64,
  byteOffset: 72,
  end: 80,
} as const;

/** DLDataTypeCode of each dtype. */
const typeCodes: Record<DType, number> = {
  f32: 2,
  f16: 2,
  bf16: 4,
  f8e4m3: 10,
  f8e5m2: 12,
  i8: 0,
  i32: 0,
  i64: 0,
  u8: 1,
  bool: 6,
};

/** Bytes of a managed struct of ours: the struct, shape, strides and the deleter's flag. */
export function managedBytes(axes: number): number {
  return flagOffset(axes) + 8;
}

/** Offset of the u32 that the deleter raises; the struct's manager_ctx points at it. */
export function flagOffset(axes: number): number {
  return at.end + 16 * axes;
}

/** Builds a DLManagedTensorVersioned in `managedBytes(shape.length)` bytes at `address`. */
export function writeManaged(memory: MemoryView, address: number, tensor: DLPackTensor): void {
  const axes = tensor.shape.length;
  const view = memory(address, managedBytes(axes));
  const write64 = (offset: number, value: number) => view.setBigInt64(offset, BigInt(value), true);
  view.setUint32(at.major, major, true);
  view.setUint32(at.minor, minor, true);
  write64(at.context, address + flagOffset(axes));
  write64(at.deleter, tensor.deleter);
  view.setBigUint64(at.flags, tensor.readOnly ? readOnlyFlag : 0n, true);
  write64(at.data, tensor.address);
  view.setInt32(at.deviceType, tensor.deviceType, true);
  view.setInt32(at.deviceId, tensor.deviceId, true);
  view.setInt32(at.axes, axes, true);
  view.setUint8(at.typeCode, typeCodes[tensor.dtype]);
  view.setUint8(at.typeBits, dtypeBytes(tensor.dtype) * 8);
  view.setUint16(at.typeLanes, 1, true);
  write64(at.shape, address + at.end);
  write64(at.strides, address + at.end + 8 * axes);
  write64(at.byteOffset, 0);
  for (let axis = 0; axis < axes; axis++) {
    write64(at.end + 8 * axis, tensor.shape[axis]);
    write64(at.end + 8 * (axes + axis), tensor.strides[axis]);
  }
  view.setUint32(flagOffset(axes), 0, true);
}

/**
 * Reads a DLManagedTensorVersioned; nothing is called or changed. Throws InputError for another
 * major version, unknown devices or dtypes, more than 8 axes, sizes and addresses out of range.
 */
export function readManaged(memory: MemoryView, address: number): DLPackTensor {
  if (!Number.isSafeInteger(address) || address <= 0 || address >= addressLimit)
    throw unreadable(`address ${address} is no address`, "pass the pointer inside the capsule.");
  // Only version, deleter and flags keep their places in every version.
  const head = memory(address, at.data);
  const version = head.getUint32(at.major, true);
  if (version !== major)
    throw unreadable(
      `version ${version}.${head.getUint32(at.minor, true)} is not ${major}.x`,
      `ask the producer for max_version=(${major}, 0), a "dltensor_versioned" capsule.`,
    );
  const view = memory(address, at.end);
  const deviceType = view.getInt32(at.deviceType, true);
  if (!(Object.values(deviceTypes) as number[]).includes(deviceType))
    throw unreadable(
      `device type ${deviceType} is unknown`,
      "copy the tensor to the CPU (1), CUDA (2) or pinned host memory (3) first.",
    );
  const dtype = readDType(view);
  const { shape, strides } = readAxes(memory, view);
  const data = read64(view, at.data, "data");
  const offset = read64(view, at.byteOffset, "byte_offset");
  checkExtent(data, offset, shape, strides, dtypeBytes(dtype));
  return {
    address: data === 0 ? 0 : data + offset,
    deviceType,
    deviceId: view.getInt32(at.deviceId, true),
    shape,
    strides,
    dtype,
    readOnly: (head.getBigUint64(at.flags, true) & readOnlyFlag) !== 0n,
    deleter: read64(head, at.deleter, "deleter"),
  };
}

function readDType(view: DataView): DType {
  const code = view.getUint8(at.typeCode);
  const bits = view.getUint8(at.typeBits);
  const lanes = view.getUint16(at.typeLanes, true);
  for (const [dtype, known] of Object.entries(typeCodes) as [DType, number][]) {
    if (code === known && bits === dtypeBytes(dtype) * 8 && lanes === 1) return dtype;
  }
  throw unreadable(
    `dtype code ${code} of ${bits} bits and ${lanes} lanes is unknown`,
    `convert to one of ${Object.keys(typeCodes).join(", ")}.`,
  );
}

function readAxes(memory: MemoryView, view: DataView): { shape: number[]; strides: number[] } {
  const axes = view.getInt32(at.axes, true);
  if (axes < 0 || axes > axesLimit)
    throw unreadable(`${axes} axes`, `reshape the tensor to at most ${axesLimit} axes.`);
  const shape = readList(memory, read64(view, at.shape, "shape"), axes, "shape");
  const given = read64(view, at.strides, "strides");
  const strides = given === 0 ? denseStrides(shape) : readList(memory, given, axes, "strides");
  return { shape, strides };
}

function readList(memory: MemoryView, address: number, count: number, name: string): number[] {
  if (count === 0) return [];
  if (address === 0) throw unreadable(`${name} is NULL`, "pass a whole struct.");
  const view = memory(address, 8 * count);
  const list: number[] = [];
  for (let i = 0; i < count; i++) {
    const value = Number(view.getBigInt64(8 * i, true));
    const least = name === "shape" ? 0 : -addressLimit;
    if (value < least || value > addressLimit)
      throw unreadable(`${name}[${i}] is ${value}`, "pass a tensor that fits in memory.");
    list.push(value);
  }
  return list;
}

function read64(view: DataView, offset: number, name: string): number {
  const value = view.getBigUint64(offset, true);
  if (value >= BigInt(addressLimit))
    throw unreadable(`${name} is 0x${value.toString(16)}`, "pass a live struct.");
  return Number(value);
}

/** Throws unless every element lies between address 0 and the end of user addresses. */
function checkExtent(
  data: number,
  offset: number,
  shape: number[],
  strides: number[],
  elementBytes: number,
): void {
  if (shape.includes(0)) return;
  if (data === 0) throw unreadable("data is NULL", "pass a tensor that has memory.");
  let first = data + offset;
  let last = first;
  for (let axis = 0; axis < shape.length; axis++) {
    const reach = (shape[axis] - 1) * strides[axis] * elementBytes;
    if (reach < 0) first += reach;
    else last += reach;
  }
  if (first <= 0 || last >= addressLimit)
    throw unreadable(`shape [${shape}] with strides [${strides}] leaves memory`, "check both.");
}

/** The error for a struct that cannot be trusted. */
export function unreadable(reason: string, fix: string): InputError {
  return new InputError("DLPack tensor", undefined, reason, fix);
}
