import { requireStream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import {
  FB_BLOCK_SCALES,
  FB_DEQUANTIZE,
  FB_QUANTIZE,
  FB_QUANTIZE_GROUPS,
  QuantizeParams,
} from "../ffi/params.gen.ts";
import { requireOptions } from "../require.ts";
import type { DType } from "../tensor/dtype.ts";
import { requireDistinct } from "../tensor/overlap.ts";
import { Tensor } from "../tensor/tensor.ts";
import { mapRows } from "./map.ts";
import {
  blockHolds,
  blockPart,
  dimOf,
  isEven,
  isEvenOut,
  launchRows,
  type Named,
  needRows,
  numbers,
  type OutOptions,
  placeRows,
  quantized,
  requireAllApart,
  requireDense,
  requireRows,
  requireShape,
  type RowKernels,
  rowsOf,
  type RowOptions,
  shortMost,
} from "./rows.ts";

/** What shares a scale: all, a row, a column, 128 elements of a row, 128 of each of 128 rows. */
export const scaleBlocks = ["tensor", "token", "channel", "1x128", "128x128"] as const;

/** One of {@link scaleBlocks}. */
export type ScaleBlock = (typeof scaleBlocks)[number];

/** The form of quantised values, and where they go. */
export interface QuantizeOptions extends RowOptions {
  /** f8e4m3, f8e5m2 or i8; default f8e4m3, or out's. */
  dtype?: DType;
  /** Given scales, which are read; left out, they are computed. */
  scales?: Tensor;
  /** Takes computed scales; left out, a new tensor does. */
  outScales?: Tensor;
  /** Takes the values; left out, a new tensor does. */
  out?: Tensor;
}

/** The form of numbers that were quantised, and where they go. */
export interface DequantizeOptions extends RowOptions {
  /** f32, f16 or bf16; default bf16, or out's. */
  dtype?: DType;
  /** Takes the numbers; left out, a new tensor does. */
  out?: Tensor;
}

/** Values in few bits; times the scales of their blocks they are the numbers again. */
export interface Quantized {
  values: Tensor;
  scales: Tensor;
}

const kernels = { short: "quantize_short", long: "quantize_long" };
/** Of even rows on a GPU, which a block has in parts of so many elements. */
const evenKernels = { short: "quantize_short", long: "quantize_even_long" };
const evenPart = 4096;
/** Of even rows that have a scale each and are longer than that. */
const wideKernels = { short: "quantize_short", long: "quantize_even_wide" };
/** Elements of a row, or rows, that share a scale. */
const blockSize = 128;
/** More columns than a row has. */
const wholeRowColumns = 2 ** 30;
/** Threads that have 128 elements of a row (kernels/quantize/quantize.cu). */
const groupLanes = 16;
const params = new QuantizeParams();

/**
 * Queues values = x / scale, rounded to nearest even and saturating, each with the scale of its
 * block; returns both. `x` [..., dim] is f32, f16 or bf16 of up to three axes with any strides but
 * 1 within a row. A computed scale is the block's largest magnitude over the dtype's largest number
 * (448, 57344, 127), at least 2^-126. Scales are dense f32: [1] by tensor, x's shape without its
 * last axis by token, [dim] by channel, that shape and ceil(dim / 128) by 1x128, [ceil(rows / 128),
 * ceil(dim / 128)] by 128x128, where x has two axes. NaN makes its block NaN (0 in i8). Errors:
 * OptionError.
 */
export function quantize(x: Tensor, by: ScaleBlock, options: QuantizeOptions = {}): Quantized {
  const known = ["dtype", "scales", "outScales", "out", "rowCount", "stream"];
  requireOptions("options", options, known);
  requireRows("x", x, undefined);
  const { device } = x;
  const { rowCount, stream = device.stream } = options;
  requireStream(stream, device);
  const shape = scalesShape("x", x, by);
  const given = options.scales ?? options.outScales;
  if (options.scales !== undefined && options.outScales !== undefined) {
    const fix = "give scales to use them, outScales to get them.";
    throw new OptionError("outScales", options.outScales.label, "nothing beside scales", fix);
  }
  const name = options.scales === undefined ? "outScales" : "scales";
  if (given !== undefined) requireDense(name, given, device, shape, ["f32"]);
  if (rowCount !== undefined) requireDense("rowCount", rowCount, device, [1], ["i32"]);
  if (options.outScales !== undefined)
    requireAllApart("outScales", options.outScales, { x, rowCount });
  const values = outputOf("quantize", x, options, quantized, "f8e4m3", {
    x,
    [name]: given,
    rowCount,
  });
  const scales = given ?? Tensor.empty(device, shape, "f32", "quantize scales");
  needRows(device, x, values, scales, rowCount);
  if (x.elements === 0) {
    // Of nothing: any that divides. Four bytes of 1 are 2.4e-38, above 2^-126.
    if (options.scales === undefined) stream.fill(scales.address, 1, 4 * scales.elements);
    return { values, scales };
  }
  place(x, values, scales, by);
  if (options.scales !== undefined) launch(FB_QUANTIZE, x, options);
  else if (by === "token" && isHeld(x)) {
    const long = dimOf(x) > evenPart ? wideKernels : evenKernels;
    launch(FB_QUANTIZE_GROUPS, x, options, long, 0);
  } else if (by === "token")
    mapRows({ operation: "scale", a: x, out: values }, ofTokens(options, scales));
  else if (by === "1x128") launch(FB_QUANTIZE_GROUPS, x, options);
  else {
    stream.fill(scales.address, 0, 4 * scales.elements);
    launch(FB_BLOCK_SCALES, x, options);
    launch(FB_QUANTIZE, x, options);
  }
  return { values, scales };
}

/**
 * Queues out = values * scale, each with the scale of its block, rounded once; returns out.
 * `values` [..., dim] is f8e4m3, f8e5m2 or i8 of up to three axes with any strides but 1 within a
 * row, `scales` is as {@link quantize} says. Errors: OptionError.
 */
export function dequantize(
  values: Tensor,
  scales: Tensor,
  by: ScaleBlock,
  options: DequantizeOptions = {},
): Tensor {
  requireOptions("options", options, ["dtype", "out", "rowCount", "stream"]);
  requireRows("values", values, undefined, quantized);
  const { device } = values;
  const { rowCount, stream = device.stream } = options;
  requireStream(stream, device);
  requireDense("scales", scales, device, scalesShape("values", values, by), ["f32"]);
  if (rowCount !== undefined) requireDense("rowCount", rowCount, device, [1], ["i32"]);
  const reads = { values, scales, rowCount };
  const out = outputOf("dequantize", values, options, numbers, "bf16", reads);
  if (values.elements === 0) return out;
  needRows(device, values, scales, out, rowCount);
  place(values, out, scales, by);
  launch(FB_DEQUANTIZE, values, options);
  return out;
}

function scalesShape(option: string, x: Tensor, by: ScaleBlock): number[] {
  const dim = dimOf(x);
  const blocks = Math.ceil(dim / blockSize);
  switch (by) {
    case "tensor":
      return [1];
    case "token":
      return x.shape.slice(0, -1);
    case "channel":
      return [dim];
    case "1x128":
      return x.shape.with(-1, blocks);
    case "128x128":
      if (x.shape.length === 2) return [Math.ceil(x.shape[0] / blockSize), blocks];
      throw new OptionError(option, x.label, "a tensor [rows, dim]", "reshape it.");
  }
  const allowed = scaleBlocks.join(", ");
  throw new OptionError("by", by, allowed, "say what shares a scale.");
}

function outputOf(
  label: string,
  x: Tensor,
  { out, dtype }: DequantizeOptions,
  types: readonly DType[],
  usual: DType,
  reads: Named,
): Tensor {
  const wanted = dtype ?? out?.dtype ?? usual;
  if (!types.includes(wanted))
    throw new OptionError("dtype", wanted, types.join(", "), "use one of these.");
  if (out === undefined) return Tensor.empty(x.device, x.shape, wanted, label);
  requireRows("out", out, x.device, [wanted]);
  requireShape("out", out, x.shape);
  requireDistinct("out", out);
  requireAllApart("out", out, reads);
  return out;
}

function place(x: Tensor, out: Tensor, scales: Tensor, by: ScaleBlock): void {
  const dim = dimOf(x);
  placeRows(params.x, x);
  placeRows(params.out, out);
  params.scales = scales.address;
  const wholeColumn = by === "tensor" || by === "channel";
  params.blockRows = by === "128x128" ? blockSize : wholeColumn ? rowsOf(x) : 1;
  const wholeRow = by === "tensor" || by === "token";
  params.blockColumns = by === "channel" ? 1 : wholeRow ? wholeRowColumns : blockSize;
  params.columnBlocks = wholeRow ? 1 : Math.ceil(dim / params.blockColumns);
}

function launch(
  mode: number,
  x: Tensor,
  options: RowOptions,
  of: RowKernels = isEvenNow(x) ? evenKernels : kernels,
  part = of === kernels ? blockPart : evenPart,
): void {
  params.mode = mode;
  launchRows(of, params, x, options, part, groupLanes);
}

/** Whether the parameters are of even rows of a GPU, with scales for 128 elements or more. */
function isEvenNow({ device, shape }: Tensor): boolean {
  if (device.kind === "cpu" || params.blockColumns === 1) return false;
  const dim = shape[shape.length - 1];
  return isEven(params.x, dim, params.x.dtype) && isEvenOut(params.out);
}

/** Whether a block of a GPU holds a row of them. */
function isHeld(x: Tensor): boolean {
  return dimOf(x) > shortMost && dimOf(x) <= blockHolds && isEvenNow(x);
}

/** What is left to say of rows that have scales of their own. */
function ofTokens({ rowCount, stream }: RowOptions, tokenScales: Tensor): OutOptions {
  const rest: OutOptions = { tokenScales };
  if (rowCount !== undefined) rest.rowCount = rowCount;
  if (stream !== undefined) rest.stream = stream;
  return rest;
}
