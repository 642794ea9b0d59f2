import { requireStream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { requireNumber, requireOptions } from "../require.ts";
import { requireDistinct } from "../tensor/overlap.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { mapRows } from "./map.ts";
import {
  dimOf,
  numbers,
  outOf,
  outOptions,
  type OutOptions,
  quantized,
  requireAllApart,
  requireDense,
  requireRows,
  requireShape,
  type RowOptions,
} from "./rows.ts";

/** What rows are multiplied by, and where they go. */
export interface GatherOptions extends OutOptions {
  /** Default 1; Gemma's embeddings take the root of their length. */
  factor?: number;
}

const types = [...numbers, ...quantized];

/**
 * Queues out[i] = source[indices[i]] * factor: embeddings of tokens, rows of a batch in another
 * order, the rows that want logits. Returns out [count, dim]. `source` [rows, dim] is of any float
 * dtype or i8 with any distance between rows, `indices` a dense i32 [count]; an index that names no
 * row, such as -1, gives zeros. `rowCount` counts indices. `out`, of source's dtype by default, may
 * overlap neither. Errors: OptionError.
 */
export function gatherRows(source: Tensor, indices: Tensor, options: GatherOptions = {}): Tensor {
  requireOptions("options", options, ["factor", ...outOptions]);
  requireMatrix("source", source);
  requireIndices(indices, source, indices?.elements);
  const { factor = 1, scale } = options;
  requireNumber("factor", factor);
  const shape = [indices.elements, dimOf(source)];
  const out = outOf("gatherRows", source, shape, options, {}, { source, indices, scale });
  return mapRows({ operation: "scale", a: source, out, factor, sources: indices }, options);
}

/**
 * Queues out[indices[i]] = source[i], rounded to out's dtype; returns out, whose other rows stay.
 * `source` [count, dim] and `out` [rows, dim] are of any float dtype or i8 with any distance
 * between rows, `indices` a dense i32 [count]; a row whose index names no row of out is left out.
 * Of rows with one index any may be kept. `rowCount` counts rows of source. `out` may overlap
 * neither. Errors: OptionError.
 */
export function scatterRows(
  source: Tensor,
  indices: Tensor,
  out: Tensor,
  options: RowOptions = {},
): Tensor {
  requireOptions("options", options, ["rowCount", "stream"]);
  requireMatrix("source", source);
  const { device } = source;
  requireIndices(indices, source, source.shape[0]);
  requireRows("out", out, device, types);
  requireShape("out", out, [out.shape[0], dimOf(source)]);
  requireDistinct("out", out);
  const { rowCount, stream = device.stream } = options;
  requireStream(stream, device);
  if (rowCount !== undefined) requireDense("rowCount", rowCount, device, [1], ["i32"]);
  requireAllApart("out", out, { source, indices, rowCount });
  return mapRows({ operation: "scale", a: source, out, targets: indices, like: source }, options);
}

function requireMatrix(option: string, tensor: Tensor): void {
  requireRows(option, tensor, undefined, types);
  if (tensor.shape.length === 2 && tensor.shape[0] < 2 ** 31) return;
  throw new OptionError(option, tensor.label, "a tensor [rows, dim]", "reshape it.");
}

function requireIndices(indices: Tensor, source: Tensor, count: number): void {
  requireDense("indices", indices, source.device, [count], ["i32"]);
}
