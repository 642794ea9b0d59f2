import { requireStream } from "../device/stream.ts";
import { ArgmaxParams } from "../ffi/params.gen.ts";
import { requireOptions } from "../require.ts";
import { Tensor } from "../tensor/tensor.ts";
import {
  launchRows,
  logitsMost,
  needRows,
  numbers,
  placeRows,
  requireAllApart,
  requireDense,
  requireRows,
  type RowOptions,
} from "./rows.ts";

/** Where results go. */
export interface ArgmaxOptions extends RowOptions {
  /** Dense i32 of x's shape without its last axis; left out, a new tensor takes the result. */
  out?: Tensor;
}

const kernels = { short: "argmax_short", long: "argmax_long" };
const params = new ArgmaxParams();

/**
 * Queues the index of each row's largest number, the lowest where several are: greedy sampling of
 * logits. Returns i32 of x's shape without its last axis. `x` [..., dim] is f32, f16 or bf16 of up
 * to three axes with any strides but 1 within a row. NaN counts as less than all else; a row of
 * nothing else has index 0. Errors: OptionError.
 */
export function argmax(x: Tensor, options: ArgmaxOptions = {}): Tensor {
  requireOptions("options", options, ["out", "rowCount", "stream"]);
  requireRows("x", x, undefined, numbers, logitsMost);
  const { device, shape } = x;
  const { rowCount, stream = device.stream } = options;
  requireStream(stream, device);
  if (rowCount !== undefined) requireDense("rowCount", rowCount, device, [1], ["i32"]);
  const wanted = shape.slice(0, -1);
  if (options.out !== undefined) {
    requireDense("out", options.out, device, wanted, ["i32"]);
    requireAllApart("out", options.out, { x, rowCount });
  }
  const out = options.out ?? Tensor.empty(device, wanted, "i32", "argmax");
  if (x.elements === 0) return out;
  needRows(device, x, out, rowCount);
  placeRows(params.x, x);
  params.out = out.address;
  launchRows(kernels, params, x, options);
  return out;
}
