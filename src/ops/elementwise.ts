import { requireNumber, requireOptions } from "../require.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { mapRows } from "./map.ts";
import {
  logitsMost,
  numbers,
  outOf,
  outOptions,
  type OutOptions,
  requireRows,
  requireShape,
} from "./rows.ts";

/**
 * Queues out = x + y, such as a residual and what a block adds to it; returns out. Both are f32,
 * f16 or bf16 of one shape [..., dim], of up to three axes with any strides but 1 within a row; the
 * sum is rounded once, to x's dtype by default. `out` may be x or y, and may overlap nothing else.
 * Errors: OptionError.
 */
export function add(x: Tensor, y: Tensor, options: OutOptions = {}): Tensor {
  requireOptions("options", options, outOptions);
  requireRows("x", x, undefined);
  requireRows("y", y, x.device);
  requireShape("y", y, x.shape);
  const out = outOf("add", x, x.shape, options, { x, y }, { scale: options.scale });
  return mapRows({ operation: "add", a: x, b: y, out }, options);
}

/**
 * Queues out = cap * tanh(x / cap), which keeps logits within -cap and cap (Gemma 2, arXiv
 * 2408.00118); returns out. `x` [..., dim] is as in {@link add}, `cap` from 1e-6 to 1e6. `out` may
 * be x, and may overlap nothing else. Errors: OptionError.
 */
export function capLogits(x: Tensor, cap: number, options: OutOptions = {}): Tensor {
  requireOptions("options", options, outOptions);
  requireRows("x", x, undefined, numbers, logitsMost);
  requireNumber("cap", cap, 1e-6, 1e6);
  const out = outOf("capLogits", x, x.shape, options, { x }, { scale: options.scale });
  return mapRows({ operation: "cap", a: x, out, factor: cap }, options);
}
