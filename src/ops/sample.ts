import { requireStream, type Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { SampleParams } from "../ffi/params.gen.ts";
import { requireOptions } from "../require.ts";
import { dtypeCode } from "../tensor/dtype.ts";
import { requireApart } from "../tensor/overlap.ts";
import { Tensor } from "../tensor/tensor.ts";
import {
  addressOf,
  checkApart,
  checkColumn,
  checkOutRows,
  checkPerRow,
  checkRows,
  numberOf,
  type PerRow,
  positions,
  rowDtypes,
  rowKernel,
  seeds,
  tensorsOf,
} from "./token-rows.ts";

/** Bits of a row's entry in a status tensor; 0 says that nothing was odd. */
export const sampleStatus = {
  /** NaN, or a probability below 0: counted as -inf, or as 0. */
  nan: 1,
  /** All is -inf, or of probability 0: the token is 0, probabilities are 0. */
  noMass: 2,
  /** A number of a tensor of options that is not allowed: as if it were not given. */
  parameter: 4,
} as const;

/** Which tokens are kept. Numbers may be tensors [rows] on the device (f32; topK i32). */
export interface FilterOptions {
  /** What x holds; default logits. Probabilities need no sum of 1. */
  from?: "logits" | "probabilities";
  /** Divides logits, 0 or more; 0 keeps the largest alone, the first of several. Default 1. */
  temperature?: PerRow;
  /** Keeps this many, from 1 to the row's length; of equal ones the first. Default all. */
  topK?: PerRow;
  /** Keeps the likeliest until they have this part of the mass, above 0, at most 1. Default 1. */
  topP?: PerRow;
  /** Keeps what has at least this part of the likeliest's probability, 0 to 1. Default 0. */
  minP?: PerRow;
  /**
   * "topKFirst", the default: topP counts the mass that minP and topK leave. "joint": that of the
   * whole row; a token is kept that all of them keep.
   */
  order?: "topKFirst" | "joint";
  /** Takes {@link sampleStatus} of each row: i32 [rows]. */
  status?: Tensor;
  /** Default: the device's own. */
  stream?: Stream;
}

/** How tokens are drawn. */
export interface SampleOptions extends FilterOptions {
  /** 0 to 2^53, or i64 [rows]. Default 0. */
  seed?: PerRow;
  /**
   * The place of the token in its sequence, 0 to 2^31, or i32 [rows]; default: the row's number.
   * Rows of one seed and one position draw alike.
   */
  position?: PerRow;
  /** Takes the tokens: i32 [rows]. */
  out?: Tensor;
}

/** How rows are filtered. */
export interface KeptRowsOptions extends FilterOptions {
  /** Takes the rows: of x's shape, x itself or memory apart from it. */
  out?: Tensor;
}

/** Which softmax. */
export type SoftmaxOptions = Pick<KeptRowsOptions, "temperature" | "out" | "status" | "stream">;

const filterNames = ["from", "temperature", "topK", "topP", "minP", "order", "status", "stream"];
const params = new SampleParams();
const [probabilities, masked] = [1, 2];

/**
 * Queues the choice of a token for each row of x [rows, vocabulary] (f32, f16, bf16) by its
 * probability after temperature and filters; returns i32 [rows]. Each row by itself: a token
 * depends on its row, options, seed and position alone, whatever else is in the batch. Exact, in a
 * bounded number of passes; the noise is Philox (SC 2011) by seed, position and token, the choice
 * the Gumbel maximum, so that CPU and GPU agree but for candidates within rounding.
 * Errors: OptionError.
 */
export function sample(x: Tensor, options: SampleOptions = {}): Tensor {
  requireOptions("options", options, [...filterNames, "seed", "position", "out"]);
  checkFilters(x, options);
  const { device, shape } = x;
  const { seed = 0, position, out: given } = options;
  const rows = shape[0];
  checkPerRow("seed", seed, device, rows, seeds);
  if (position !== undefined) checkPerRow("position", position, device, rows, positions);
  const inputs = tensorsOf(seed, position, ...numbersOf(options));
  if (given !== undefined) {
    checkColumn("out", given, device, rows, "i32");
    requireApart("out", given, "x", x);
  }
  checkWritten(x, inputs, given, options.status);
  const out = given ?? Tensor.empty(device, [rows], "i32", "sample");
  setFilters(x, options);
  params.tokens = out.address;
  params.out = params.outStride = params.outDtype = params.outKind = 0;
  params.seeds = addressOf(seed);
  params.seed = numberOf(seed, 0);
  params.positions = addressOf(position);
  params.position = numberOf(position ?? 0, 0);
  params.isPositionRow = position === undefined ? 1 : 0;
  launch(x, out, options, inputs);
  return out;
}

/**
 * Queues the probabilities of the tokens that the filters keep, 0 for the others: what
 * {@link sample} draws from. `out` is f32, f16 or bf16; default f32. Errors: OptionError.
 */
export function renormalize(x: Tensor, options: KeptRowsOptions = {}): Tensor {
  requireOptions("options", options, [...filterNames, "out"]);
  return rowsOf(x, options, probabilities);
}

/** Queues softmax(x / temperature) of each row, as {@link renormalize}. Errors: OptionError. */
export function softmax(x: Tensor, options: SoftmaxOptions = {}): Tensor {
  requireOptions("options", options, ["temperature", "out", "status", "stream"]);
  return rowsOf(x, options, probabilities);
}

/**
 * Queues x with -inf (in probabilities 0) for what the filters do not keep, in x's dtype; `out` may
 * be x. Errors: OptionError.
 */
export function maskLogits(x: Tensor, options: KeptRowsOptions = {}): Tensor {
  requireOptions("options", options, [...filterNames, "out"]);
  return rowsOf(x, options, masked);
}

function rowsOf(x: Tensor, options: KeptRowsOptions, kind: number): Tensor {
  checkFilters(x, options);
  const { device, shape } = x;
  const dtypes = kind === masked ? [x.dtype] : rowDtypes;
  const inputs = tensorsOf(...numbersOf(options));
  if (options.out !== undefined) {
    checkOutRows("out", options.out, device, shape, dtypes);
    checkApart("out", options.out, "x", x);
  }
  checkWritten(x, inputs, options.out, options.status);
  const dtype = kind === masked ? x.dtype : "f32";
  const out = options.out ?? Tensor.empty(device, shape, dtype, "filtered rows");
  setFilters(x, options);
  params.tokens = params.seeds = params.positions = 0;
  params.out = out.address;
  params.outStride = out.strides[0];
  params.outDtype = dtypeCode(out.dtype);
  params.outKind = kind;
  launch(x, out, options, inputs);
  return out;
}

const temperatures = { dtype: "f32", least: 0, most: 3e38 } as const;
const topPs = { dtype: "f32", least: 1e-38, most: 1 } as const;
const minPs = { dtype: "f32", least: 0, most: 1 } as const;

function numbersOf({ temperature, topK, topP, minP }: FilterOptions): (PerRow | undefined)[] {
  return [temperature, topK, topP, minP];
}

function checkFilters(x: Tensor, options: KeptRowsOptions | SampleOptions): void {
  checkRows("x", x);
  const { device } = x;
  const [rows, length] = x.shape;
  const { from = "logits", order = "topKFirst", temperature, topK, topP, minP, status } = options;
  if (from !== "logits" && from !== "probabilities")
    throw new OptionError("from", from, '"logits" or "probabilities"', "say what x holds.");
  if (order !== "topKFirst" && order !== "joint")
    throw new OptionError("order", order, '"topKFirst" or "joint"', "say what topP counts.");
  if (temperature !== undefined) {
    if (from === "probabilities" && temperature !== 0 && temperature !== 1)
      throw new OptionError("temperature", temperature, "1 or 0 of probabilities", "leave it out.");
    checkPerRow("temperature", temperature, device, rows, temperatures);
  }
  if (topK !== undefined)
    checkPerRow("topK", topK, device, rows, { dtype: "i32", least: 1, most: length });
  if (topP !== undefined) checkPerRow("topP", topP, device, rows, topPs);
  if (minP !== undefined) checkPerRow("minP", minP, device, rows, minPs);
  if (options.stream !== undefined) requireStream(options.stream, device);
  if (status !== undefined) checkColumn("status", status, device, rows, "i32");
}

/** What is written has no byte in common with another tensor, but out and x where they may. */
function checkWritten(x: Tensor, inputs: readonly Tensor[], out?: Tensor, status?: Tensor): void {
  for (const input of inputs) if (out !== undefined) requireApart("out", out, "the options", input);
  if (status === undefined) return;
  for (const other of [x, ...inputs, ...tensorsOf(out)])
    requireApart("status", status, "the other tensors", other);
}

function setFilters(x: Tensor, options: FilterOptions): void {
  const { from, order, temperature = 1, topK = 0, topP = 1, minP = 0, status } = options;
  params.x = x.address;
  params.xStride = x.strides[0];
  params.rowCount = x.shape[0];
  params.vocabulary = x.shape[1];
  params.dtype = dtypeCode(x.dtype);
  params.temperatures = addressOf(temperature);
  params.temperature = numberOf(temperature, 1);
  params.topKs = addressOf(topK);
  params.topK = numberOf(topK, 0);
  params.topPs = addressOf(topP);
  params.topP = numberOf(topP, 1);
  params.minPs = addressOf(minP);
  params.minP = numberOf(minP, 0);
  params.status = status?.address ?? 0;
  params.isProbabilities = from === "probabilities" ? 1 : 0;
  params.isJoint = order === "joint" ? 1 : 0;
}

/** What top-k of {@link isFew} keeps at most: few_most in kernels/sampling/few.h. */
const fewMost = 128;

/** Whether rows of logits or probabilities are drawn from of which the first few decide. */
function isFew(rows: number, options: FilterOptions): boolean {
  const { temperature = 1, topK, topP = 1, order } = options;
  // One row alone waits less where it is held.
  if (params.out !== 0 || rows === 1) return false;
  if (typeof topK !== "number" || topK === 1 || topK > fewMost) return false;
  // Temperature 0, as f32, takes the first of the largest; joint top-p counts the whole row.
  if (typeof temperature !== "number" || Math.fround(temperature) === 0) return false;
  return order !== "joint" || topP === 1;
}

/**
 * The kernel of rows of logits that are drawn from without top-k, or become probabilities without
 * filters. Where top-p keeps little, it is looked for at once.
 */
function plainKernel(options: FilterOptions): string | undefined {
  const { from, temperature = 1, topK, topP = 1, minP = 0 } = options;
  if (topK !== undefined || from === "probabilities" || typeof topP !== "number") return undefined;
  if (params.out === 0) return topP >= 0.02 ? "sample_plain" : undefined;
  // Temperature 0, as f32, keeps the largest alone.
  if (typeof temperature !== "number" || Math.fround(temperature) === 0) return undefined;
  const isSoftmax = params.outKind === probabilities && topP === 1 && minP === 0;
  return isSoftmax ? "sample_softmax" : undefined;
}

function launch(x: Tensor, out: Tensor, options: FilterOptions, inputs: readonly Tensor[]): void {
  const { device } = x;
  const [rows, length] = x.shape;
  if (rows === 0) return;
  const { stream = device.stream, status } = options;
  if (device.capturing) device.needOnReplay(x, out, ...inputs, ...tensorsOf(status));
  const name = isFew(rows, options) ? "sample_few" : (plainKernel(options) ?? "sample_rows");
  const kernel = rowKernel(device, name, length);
  device.launch(stream, kernel, params, rows);
}
