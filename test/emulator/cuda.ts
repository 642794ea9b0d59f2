import { CFunction, dlopen, type Pointer, ptr, toArrayBuffer } from "bun:ffi";
import { existsSync } from "node:fs";
import { emulatedLibrary } from "../support/targets.ts";

/** Parameters of every kernel of test/emulator: see conformance.h. */
const parameterBytes = 320;
const mapsOffset = 64;
const mapBytes = 128;

type Argument = number | bigint | NodeJS.TypedArray | null;
type Type = "ptr" | "u64" | "i32" | "u32";

/** The driver's functions that these tests call, by their argument types. */
const signatures = {
  cuInit: ["u32"],
  cuGetErrorName: ["i32", "ptr"],
  cuGetErrorString: ["i32", "ptr"],
  cuDeviceGetName: ["ptr", "i32", "i32"],
  cuDeviceGetAttribute: ["ptr", "i32", "i32"],
  cuDevicePrimaryCtxRetain: ["ptr", "i32"],
  cuDevicePrimaryCtxRelease: ["i32"],
  cuCtxSetCurrent: ["u64"],
  cuCtxSynchronize: [],
  cuMemAlloc: ["ptr", "u64"],
  cuMemFree: ["u64"],
  cuMemHostAlloc: ["ptr", "u64", "u32"],
  cuMemFreeHost: ["u64"],
  cuMemcpyAsync: ["u64", "u64", "u64", "u64"],
  cuMemsetD8Async: ["u64", "i32", "u64", "u64"],
  cuStreamCreate: ["ptr", "u32"],
  cuStreamDestroy: ["u64"],
  cuStreamSynchronize: ["u64"],
  cuStreamQuery: ["u64"],
  cuStreamWaitEvent: ["u64", "u64", "u32"],
  cuStreamBeginCapture: ["u64", "i32"],
  cuStreamEndCapture: ["u64", "ptr"],
  cuStreamIsCapturing: ["u64", "ptr"],
  cuEventCreate: ["ptr", "u32"],
  cuEventDestroy: ["u64"],
  cuEventRecord: ["u64", "u64"],
  cuEventQuery: ["u64"],
  cuEventSynchronize: ["u64"],
  cuEventElapsedTime: ["ptr", "u64", "u64"],
  cuGraphInstantiateWithFlags: ["ptr", "u64", "u64"],
  cuGraphLaunch: ["u64", "u64"],
  cuGraphExecUpdate: ["u64", "u64", "ptr"],
  cuGraphExecDestroy: ["u64"],
  cuGraphDestroy: ["u64"],
  cuLibraryLoadData: ["ptr", "ptr", "u64", "u64", "u32", "u64", "u64", "u32"],
  cuLibraryUnload: ["u64"],
  cuLibraryGetKernel: ["ptr", "u64", "ptr"],
  cuKernelGetFunction: ["ptr", "u64"],
  cuKernelGetAttribute: ["ptr", "i32", "u64", "i32"],
  cuKernelSetAttribute: ["i32", "i32", "u64", "i32"],
  cuKernelGetParamInfo: ["u64", "u64", "ptr", "ptr"],
  cuLaunchKernelEx: ["ptr", "u64", "ptr", "u64"],
  cuOccupancyMaxActiveBlocksPerMultiprocessor: ["ptr", "u64", "i32", "u64"],
  cuTensorMapEncodeTiled:
    // map, type, rank, address, extents, strides, box, steps, interleave, swizzle, promotion, fill
    ["ptr", "i32", "u32", "u64", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32"],
} as const satisfies Record<string, readonly Type[]>;

export type DriverCall = keyof typeof signatures;

/** The oldest version of each function that CUDA 12 has. */
const cudaVersion = 12000;

/** Of a kernel: how much dynamic shared memory a launch may ask for. */
const sharedAttribute = 8;

/** The libcuda under test: FLASHBUN_LIBCUDA, else a real one, else the emulated one. */
const libcudaPath =
  process.env["FLASHBUN_LIBCUDA"] ??
  (existsSync("/dev/nvidiactl") ? "libcuda.so.1" : emulatedLibrary);

/** True where there is a libcuda to test; a real one is named by its file name alone. */
export const available = !libcudaPath.includes("/") || existsSync(libcudaPath);

/** True where libcuda is the emulated one. */
export const emulated = libcudaPath.includes("emulated");

const open = () =>
  dlopen(libcudaPath, {
    cuGetProcAddress_v2: { args: ["ptr", "ptr", "i32", "u64", "ptr"], returns: "i32" },
  }).symbols;
let library: ReturnType<typeof open> | undefined;

const functions = new Map<DriverCall, (...args: Argument[]) => number>();

function functionOf(name: DriverCall): (...args: Argument[]) => number {
  let found = functions.get(name);
  if (found !== undefined) return found;
  const out = new BigUint64Array(1);
  library ??= open();
  const status = library.cuGetProcAddress_v2(text(name), ptr(out), cudaVersion, 0, null);
  if (status !== 0) throw new Error(`cuGetProcAddress(${name}): ${status}`);
  const args = signatures[name].map((type) => (type === "ptr" ? "u64" : type));
  const native = CFunction({ ptr: Number(out[0]) as Pointer, args, returns: "i32" });
  found = (...values) => native(...values.map(plain)) as number;
  functions.set(name, found);
  return found;
}

function plain(value: Argument): number | bigint {
  if (value === null) return 0n;
  return typeof value === "object" ? BigInt(ptr(value)) : value;
}

/** Where a typed array lies. */
export function addressOf(bytes: NodeJS.TypedArray): bigint {
  return BigInt(ptr(bytes));
}

/** A C string. */
export function text(value: string): Buffer {
  return Buffer.from(`${value}\0`);
}

/** Calls the driver; returns the CUresult. */
export function call(name: DriverCall, ...args: Argument[]): number {
  return functionOf(name)(...args);
}

/** What the driver calls a CUresult, and what it says of it. */
export function nameOf(result: number): string {
  return read("cuGetErrorName", result);
}

/** The driver's sentence about a CUresult. */
export function sentenceOf(result: number): string {
  return read("cuGetErrorString", result);
}

function read(name: DriverCall, result: number): string {
  const out = new BigUint64Array(1);
  if (call(name, result, out) !== 0) return `CUresult ${result}`;
  const address = Number(out[0]) as Pointer;
  const bytes = new Uint8Array(toArrayBuffer(address, 0, 512));
  return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
}

/** Calls the driver and throws on any other answer than success. */
export function must(name: DriverCall, ...args: Argument[]): void {
  const result = call(name, ...args);
  if (result !== 0) throw new Error(`${name}: ${nameOf(result)} (${sentenceOf(result)})`);
}

/** Calls the driver for a handle or an address. */
export function get(name: DriverCall, ...args: Argument[]): bigint {
  const out = new BigUint64Array(1);
  must(name, out, ...args);
  return out[0];
}

export interface TensorMapSpec {
  readonly address: bigint;
  readonly type: keyof typeof tensorMapTypes;
  readonly extents: readonly number[];
  readonly strides: readonly number[]; // bytes, of axes 1 and up
  readonly box: readonly number[];
  readonly swizzle: 0 | 32 | 64 | 128;
}

const tensorMapTypes = { u8: 0, u16: 1, i32: 3, f16: 6, f32: 7, bf16: 9 };

export interface Launch {
  readonly kernel: bigint;
  readonly grid?: number;
  readonly threads?: number;
  readonly shared?: number;
  readonly cluster?: number;
  readonly stream?: bigint;
  readonly programmatic?: boolean;
  readonly input?: bigint;
  readonly output?: bigint;
  readonly numbers?: readonly number[];
  readonly maps?: readonly TensorMapSpec[];
}

/** Launches one of the kernels of this folder; returns the CUresult. */
export function launch(what: Launch): number {
  // Bytes of a buffer stay where they are; small arrays without one would move.
  const parameters = new Uint8Array(new ArrayBuffer(parameterBytes + 64));
  // Tensor maps are encoded at an aligned place.
  const start = (64 - (ptr(parameters) % 64)) % 64;
  const view = new DataView(parameters.buffer, start);
  view.setBigUint64(0, what.input ?? 0n, true);
  view.setBigUint64(8, what.output ?? 0n, true);
  what.numbers?.forEach((value, i) => view.setInt32(16 + 4 * i, value, true));
  what.maps?.forEach((map, i) => encode(map, ptr(parameters) + start + mapsOffset + i * mapBytes));
  const addresses = new BigUint64Array([BigInt(ptr(parameters) + start)]);
  const { grid = 1, threads = 32, shared = 0, cluster = 1, stream = 0n } = what;
  if (shared > 0) must("cuKernelSetAttribute", sharedAttribute, shared, what.kernel, 0);
  const attributes = new Int32Array(2 * 18);
  let count = 0;
  if (cluster > 1) attributes.set([4, 0, cluster, 1, 1], 18 * count++);
  if (what.programmatic) attributes.set([6, 0, 1], 18 * count++);
  const config = new ArrayBuffer(56);
  new Uint32Array(config).set([grid, 1, 1, threads, 1, 1, shared]);
  new BigUint64Array(config).set([stream, BigInt(ptr(attributes)), BigInt(count)], 4);
  return call("cuLaunchKernelEx", new Uint8Array(config), what.kernel, addresses, 0n);
}

function encode(map: TensorMapSpec, at: number): void {
  const extents = BigUint64Array.from(map.extents, BigInt);
  const strides = BigUint64Array.from([...map.strides, 0], BigInt);
  const box = Uint32Array.from(map.box);
  const steps = new Uint32Array(5).fill(1);
  const swizzle = [0, 32, 64, 128].indexOf(map.swizzle);
  const rank = map.extents.length;
  const type = tensorMapTypes[map.type];
  must(
    "cuTensorMapEncodeTiled",
    BigInt(at),
    type,
    rank,
    map.address,
    extents,
    strides,
    box,
    steps,
    0,
    swizzle,
    0,
    0,
  );
}
