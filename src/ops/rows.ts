/**
 * What operators over rows share: the last axis is the row, its elements are neighbours, and up to
 * two axes before it have any strides.
 */
import type { Device } from "../device/device.ts";
import type { Params } from "../ffi/params.ts";
import type { RowsParams, ScalingParams, SpanParams } from "../ffi/params.gen.ts";
import { requireStream, type Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { type DType, dtypeBytes, dtypeCode } from "../tensor/dtype.ts";
import { requireApart, requireDistinct } from "../tensor/overlap.ts";
import { requireTensor, Tensor } from "../tensor/tensor.ts";

/** What every operator over rows may be told. */
export interface RowOptions {
  /** i32 [1]: how many of the first axis there are; what lies behind them is left as it is. */
  rowCount?: Tensor;
  /** Default: the device's own. */
  stream?: Stream;
}

/** Where results go, and in what form. */
export interface OutOptions extends RowOptions {
  /** Takes the result; left out, a new tensor does. */
  out?: Tensor;
  /** Of a new result; default x's. */
  dtype?: DType;
  /** f32 [1]: results are divided by it, then rounded to f8e4m3, f8e5m2 or i8. */
  scale?: Tensor;
  /**
   * f32 of x's shape without its last axis, written: results of a row are divided by its largest
   * magnitude over the largest number of f8e4m3, f8e5m2 or i8, so that it becomes that number.
   */
  tokenScales?: Tensor;
}

/** Names of {@link OutOptions}. */
export const outOptions = ["out", "dtype", "scale", "tokenScales", "rowCount", "stream"] as const;

/** Types that operators compute with. */
export const numbers: readonly DType[] = ["f32", "f16", "bf16"];
/** Types that hold results which were divided by a scale. */
export const quantized: readonly DType[] = ["f8e4m3", "f8e5m2", "i8"];

const halves = new Set((["f16", "bf16"] as const).map(dtypeCode));
const bytes = new Set(quantized.map(dtypeCode));

/** Most elements of a row: a thread of the CPU holds four of them as f32, */
const dimMost = 1 << 18;
/** or two, of logits. */
export const logitsMost = 500_000;
/** Elements that a thread of a GPU holds of a row (kernels/common/rows.h). */
const heldElements = 32;
/** Longest row that lanes of one warp share. */
export const shortMost = 32 * heldElements;
/** Longest row that a block holds. */
export const blockHolds = 256 * heldElements;
/** Elements of a long row's part that a block of a GPU takes, four chunks a thread. */
export const blockPart = 4 * 256 * 8;

/** A kernel by the length of its rows. */
export interface RowKernels {
  readonly short: string;
  readonly long: string;
}

/** Parameters of every kernel over rows. */
interface SpannedParams extends Params {
  readonly span: SpanParams;
}

/** Elements of a row. */
export function dimOf({ shape }: Tensor): number {
  return shape[shape.length - 1];
}

/** Rows of a tensor. */
export function rowsOf(tensor: Tensor): number {
  return tensor.elements / dimOf(tensor);
}

/** Throws an OptionError unless `tensor` is of rows, live, on the device, of one of `dtypes`. */
export function requireRows(
  option: string,
  tensor: Tensor | undefined,
  device: Device | undefined,
  dtypes: readonly DType[] = numbers,
  most = dimMost,
): asserts tensor is Tensor {
  requireTensor(option, tensor);
  if (device === undefined) tensor.guard();
  else tensor.requireOn(device, option);
  const { shape, strides, dtype, label } = tensor;
  const axes = shape.length;
  const dim = shape[axes - 1];
  const isRows = axes >= 1 && axes <= 3 && dim >= 1 && dim <= most && tensor.elements < 2 ** 47;
  if (!isRows || (dim > 1 && strides[axes - 1] !== 1) || shape[0] >= 2 ** 31) {
    const allowed = `a tensor [..., 1 to ${most}] of up to three axes with innermost stride 1`;
    throw new OptionError(option, label, allowed, "reshape or copy it.");
  }
  if (dtypes.includes(dtype)) return;
  throw new OptionError(option, label, `of ${dtypes.join(", ")}`, "convert it by .to(dtype).");
}

/** Throws an OptionError unless a tensor has the shape of another. */
export function requireShape(option: string, tensor: Tensor, shape: readonly number[]): void {
  const isSame = tensor.shape.length === shape.length;
  if (isSame && shape.every((size, axis) => size === tensor.shape[axis])) return;
  throw new OptionError(
    option,
    tensor.label,
    `of shape [${shape.join(", ")}]`,
    "match the shapes.",
  );
}

/** Throws an OptionError unless a tensor is dense, of this shape and one of these types. */
export function requireDense(
  option: string,
  tensor: Tensor | undefined,
  device: Device,
  shape: readonly number[],
  dtypes: readonly DType[],
): asserts tensor is Tensor {
  requireTensor(option, tensor);
  tensor.requireOn(device, option);
  const { dtype, contiguous } = tensor;
  const isShape = tensor.shape.length === shape.length;
  const isSame = isShape && shape.every((size, axis) => size === tensor.shape[axis]);
  if (isSame && contiguous && dtypes.includes(dtype)) return;
  // Callers name f32 and the dtype of x, which may be one.
  const named = [...new Set(dtypes)].join(" or ");
  const allowed = `a dense ${named} tensor [${shape.join(", ")}]`;
  throw new OptionError(option, tensor.label, allowed, "pass one like this.");
}

/** Tensors by the names of their options. */
export type Named = Readonly<Record<string, Tensor | undefined>>;

/** Throws an OptionError unless what is written lies apart from all that is read. */
export function requireAllApart(option: string, written: Tensor, reads: Named): void {
  for (const name in reads) {
    const read = reads[name];
    if (read === undefined) continue;
    requireTensor(name, read);
    requireApart(option, written, name, read);
  }
}

/** As {@link requireAllApart}, or that it is what is read, element by element. */
function requireInPlace(option: string, written: Tensor, reads: Named): void {
  for (const name in reads) {
    const read = reads[name];
    if (read === undefined) continue;
    requireTensor(name, read);
    if (isSamePlace(written, read)) continue;
    requireApart(option, written, `${name}, or ${name} itself`, read);
  }
}

function isSamePlace(a: Tensor, b: Tensor): boolean {
  if (a.address !== b.address || a.dtype !== b.dtype) return false;
  const isSame = (size: number, axis: number) =>
    size === b.shape[axis] && (size <= 1 || a.strides[axis] === b.strides[axis]);
  return a.shape.length === b.shape.length && a.shape.every(isSame);
}

/**
 * The tensor that takes a result of `shape`: `options.out`, checked, or a new one of x's dtype with
 * a label. It may be each of `inPlace`, and has nothing in common with `reads`. Errors:
 * OptionError, also for scales that do not fit.
 */
export function outOf(
  label: string,
  x: Tensor,
  shape: readonly number[],
  options: OutOptions,
  inPlace: Named,
  reads: Named,
): Tensor {
  const { device } = x;
  const { out, tokenScales, rowCount, stream } = options;
  if (stream !== undefined) requireStream(stream, device);
  const types = [...numbers, ...quantized];
  const dtype = out?.dtype ?? options.dtype ?? x.dtype;
  if (!types.includes(dtype))
    throw new OptionError(out === undefined ? "dtype" : "out", dtype, types.join(", "), "use one.");
  if (rowCount !== undefined) requireDense("rowCount", rowCount, device, [1], ["i32"]);
  requireScales(device, shape, dtype, options);
  if (tokenScales !== undefined)
    requireAllApart("tokenScales", tokenScales, { ...inPlace, ...reads, rowCount, out });
  if (out === undefined) return Tensor.empty(device, shape, dtype, label);
  requireRows("out", out, device, types, logitsMost);
  requireShape("out", out, shape);
  requireDistinct("out", out);
  if (options.dtype !== undefined && options.dtype !== dtype)
    throw new OptionError("dtype", options.dtype, `${dtype}, as out`, "leave it out.");
  requireInPlace("out", out, inPlace);
  requireAllApart("out", out, { ...reads, rowCount });
  return out;
}

function requireScales(
  device: Device,
  shape: readonly number[],
  dtype: DType,
  { scale, tokenScales }: OutOptions,
): void {
  if (scale === undefined && tokenScales === undefined) return;
  const name = scale === undefined ? "tokenScales" : "scale";
  if (!quantized.includes(dtype)) {
    const fix = `ask for one by { dtype: "f8e4m3" }, or leave ${name} out.`;
    throw new OptionError(name, dtype, `a result of ${quantized.join(", ")}`, fix);
  }
  if (scale !== undefined) requireDense("scale", scale, device, [1], ["f32"]);
  if (tokenScales === undefined) return;
  requireDense("tokenScales", tokenScales, device, shape.slice(0, -1), ["f32"]);
  if (scale === undefined) return;
  const fix = "give scale or tokenScales.";
  throw new OptionError("tokenScales", tokenScales.label, "nothing beside scale", fix);
}

/** Writes where a tensor's rows lie. */
export function placeRows(params: RowsParams, tensor: Tensor): void {
  const { shape, strides, address, dtype } = tensor;
  const axes = shape.length;
  params.address = address;
  params.outerStride = axes === 3 ? strides[0] : 0;
  params.stride = axes >= 2 ? strides[axes - 2] : 0;
  params.inner = axes === 3 ? shape[1] : rowsOf(tensor);
  params.dtype = dtypeCode(dtype);
}

/** Writes what results are divided by. */
export function placeScaling(params: ScalingParams, options: OutOptions): void {
  params.scale = options.scale?.address ?? 0;
  params.tokenScales = options.tokenScales?.address ?? 0;
}

/** Whether a GPU's kernels for even rows (kernels/common/even.h) read these, or there are none. */
export function isEven(rows: RowsParams, dim: number, dtype: number): boolean {
  if (rows.address === 0) return true;
  return rows.dtype === dtype && halves.has(dtype) && dim % 8 === 0 && isAligned(rows, 16, 2);
}

/** Whether they write these. */
export function isEvenOut(rows: RowsParams): boolean {
  if (halves.has(rows.dtype)) return isAligned(rows, 16, 2);
  return bytes.has(rows.dtype) && isAligned(rows, 8, 1);
}

/**
 * Whether a GPU's kernels for even rows take each row of a tensor, of 16 bits or, to write, 8: in
 * chunks of 8 elements, of which axes before the last step over whole ones.
 */
export function isEvenTensor({ address, shape, strides, dtype }: Tensor, writes = false): boolean {
  const code = dtypeCode(dtype);
  if (!halves.has(code) && !(writes && bytes.has(code))) return false;
  if (address % (8 * dtypeBytes(dtype)) !== 0 || shape[shape.length - 1] % 8 !== 0) return false;
  for (let axis = 0; axis < strides.length - 1; axis++) if (strides[axis] % 8 !== 0) return false;
  return true;
}

function isAligned(rows: RowsParams, alignment: number, elementBytes: number): boolean {
  const { address, stride, outerStride } = rows;
  return (address | (elementBytes * stride) | (elementBytes * outerStride)) % alignment === 0;
}

/**
 * Queues a kernel over the rows of `like`. Where no result depends on the whole row, blocks of a
 * GPU share long ones in parts of `part` elements, or a quarter where rows are few; 0: they do not.
 * Short ones have `lanesLeast` threads or more.
 */
export function launchRows(
  { short, long }: RowKernels,
  params: SpannedParams,
  like: Tensor,
  { rowCount, stream }: RowOptions,
  part = 0,
  lanesLeast = 1,
): void {
  const { device, shape } = like;
  const { span } = params;
  const dim = dimOf(like);
  const rows = rowsOf(like);
  const isShort = dim <= shortMost;
  span.live = rowCount?.address ?? 0;
  span.outer = shape.length === 1 ? 1 : shape[0];
  span.inner = shape.length === 3 ? shape[1] : 1;
  span.dim = dim;
  span.lanes = isShort ? Math.max(lanesLeast, lanesOf(dim)) : 32;
  const isSplit = part > 0 && !isShort && device.kind !== "cpu";
  span.partElements = isSplit ? part / (rows > 128 ? 1 : 4) : dim;
  span.parts = Math.ceil(dim / span.partElements);
  const kernel = device.kernel(isShort ? short : long);
  const itemRows = (kernel.itemRows * 32) / span.lanes;
  device.launch(stream ?? device.stream, kernel, params, Math.ceil(rows / itemRows) * span.parts);
}

/** Threads of a GPU that share a row of at most {@link shortMost} elements. */
function lanesOf(dim: number): number {
  let lanes = 1;
  while (lanes * heldElements < dim) lanes *= 2;
  return lanes;
}

/** Makes every replay of a graph being captured need these; undefined ones are left out. */
export function needRows(device: Device, ...tensors: readonly (Tensor | undefined)[]): void {
  if (device.capturing)
    device.needOnReplay(...tensors.filter((tensor): tensor is Tensor => tensor !== undefined));
}
