import { requireStream, type Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { TopKParams } from "../ffi/params.gen.ts";
import { requireInteger, requireNumber, requireOptions } from "../require.ts";
import { type DType, dtypeCode } from "../tensor/dtype.ts";
import { requireApart } from "../tensor/overlap.ts";
import { Tensor } from "../tensor/tensor.ts";
import { checkColumn, checkOutRows, checkRows, rowKernel, tensorsOf } from "./token-rows.ts";

/** Where the largest of rows go. */
export interface TopKOptions {
  /** Takes the values: [rows, k] of x's dtype. */
  values?: Tensor;
  /** Takes their places in the row: i32 [rows, k]. */
  indices?: Tensor;
  /** Takes sampleStatus of each row: i32 [rows]. */
  status?: Tensor;
  /** Default: the device's own. */
  stream?: Stream;
}

/** Which log-probabilities. */
export interface LogProbOptions extends TopKOptions {
  /** Of these tokens too: i32 [rows]. One outside of the vocabulary has -inf. */
  tokens?: Tensor;
  /** Of the likeliest, up to the vocabulary; default 0. `values` are f32. */
  top?: number;
  /** Divides the logits, above 0; default 1. */
  temperature?: number;
  /** Takes those of `tokens`, without which it is refused: f32 [rows]. */
  out?: Tensor;
}

/** The largest of each row, falling. */
export interface TopK {
  readonly values: Tensor;
  readonly indices: Tensor;
}

/** Log-probabilities to base e. */
export interface LogProbs extends TopK {
  /** Of the tokens that were named; undefined without. */
  readonly chosen: Tensor | undefined;
}

const names = ["values", "indices", "status", "stream"];
const params = new TopKParams();

/**
 * Queues the k largest of each row of x [rows, length] (f32, f16, bf16), falling, of equal ones the
 * first first: values [rows, k] of x's dtype and indices, i32. NaN counts as -inf. Found by radix
 * selection; k is 1 to the length, up to 1024 sorted in fast memory. Errors: OptionError.
 */
export function topK(x: Tensor, k: number, options: TopKOptions = {}): TopK {
  requireOptions("options", options, names);
  checkRows("x", x);
  requireInteger("k", k, 1, x.shape[1]);
  checkResults(x, k, x.dtype, options);
  const results = resultsOf(x, k, x.dtype, options);
  params.tokens = params.chosen = params.isLogProbabilities = 0;
  params.temperature = 1;
  launch(x, k, results, options, []);
  return results;
}

/**
 * Queues log(softmax(x / temperature)) of each row's `top` likeliest tokens and of one named token:
 * `values` f32 [rows, top] falling, `indices` i32, `chosen` f32 [rows]. Errors: OptionError.
 */
export function logProbs(x: Tensor, options: LogProbOptions = {}): LogProbs {
  requireOptions("options", options, [...names, "tokens", "top", "temperature", "out"]);
  checkRows("x", x);
  const { device } = x;
  const [rows, length] = x.shape;
  const { tokens, top = 0, temperature = 1, out } = options;
  requireInteger("top", top, 0, length);
  requireNumber("temperature", temperature, 1e-30, 3e38);
  if (tokens !== undefined) checkColumn("tokens", tokens, device, rows, "i32");
  checkResults(x, top, "f32", options);
  const written = tensorsOf(options.values, options.indices, options.status);
  if (out !== undefined) {
    checkColumn("out", out, device, rows, "f32");
    if (tokens === undefined)
      throw new OptionError("out", out.label, "left out without tokens", "pass tokens too.");
    for (const other of [x, tokens, ...written])
      requireApart("out", out, "the other tensors", other);
  }
  if (tokens !== undefined)
    for (const result of written) requireApart("tokens", tokens, "results", result);
  const results = resultsOf(x, top, "f32", options);
  const made = () => (tokens === undefined ? undefined : Tensor.empty(device, [rows], "f32"));
  const chosen = out ?? made();
  params.tokens = tokens?.address ?? 0;
  params.chosen = chosen?.address ?? 0;
  params.isLogProbabilities = 1;
  params.temperature = temperature;
  launch(x, top, results, options, tensorsOf(tokens, chosen));
  return { ...results, chosen };
}

function checkResults(x: Tensor, k: number, dtype: DType, given: TopKOptions): void {
  const { device } = x;
  const shape = [x.shape[0], k];
  const { values, indices, status, stream } = given;
  if (stream !== undefined) requireStream(stream, device);
  if (values !== undefined) checkOutRows("values", values, device, shape, [dtype]);
  if (indices !== undefined) checkOutRows("indices", indices, device, shape, ["i32"]);
  if (status !== undefined) checkColumn("status", status, device, shape[0], "i32");
  const written = Object.entries({ values, indices, status });
  for (const [i, [option, tensor]] of written.entries()) {
    if (tensor === undefined) continue;
    requireApart(option, tensor, "x", x);
    for (const [, other] of written.slice(i + 1))
      if (other !== undefined) requireApart(option, tensor, "the other results", other);
  }
}

function resultsOf(
  { device, shape: [rows] }: Tensor,
  k: number,
  dtype: DType,
  { values, indices }: TopKOptions,
): TopK {
  const shape = [rows, k];
  return {
    values: values ?? Tensor.empty(device, shape, dtype, "topK values"),
    indices: indices ?? Tensor.empty(device, shape, "i32", "topK indices"),
  };
}

function launch(
  x: Tensor,
  k: number,
  { values, indices }: TopK,
  { status, stream = x.device.stream }: TopKOptions,
  others: readonly Tensor[],
): void {
  const { device } = x;
  const [rows, length] = x.shape;
  if (rows === 0) return;
  params.x = x.address;
  params.values = values.address;
  params.indices = indices.address;
  params.status = status?.address ?? 0;
  params.xStride = x.strides[0];
  params.valuesStride = values.strides[0];
  params.indicesStride = indices.strides[0];
  params.rowCount = rows;
  params.rowLength = length;
  params.k = k;
  params.dtype = dtypeCode(x.dtype);
  if (device.capturing) device.needOnReplay(x, values, indices, ...others, ...tensorsOf(status));
  device.launch(stream, rowKernel(device, "top_k_rows", length), params, rows);
}
