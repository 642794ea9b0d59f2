import { OptionError } from "../errors.ts";
import { requireOptions } from "../require.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { mapRows } from "./map.ts";
import { dimOf, outOf, outOptions, type OutOptions, requireRows, requireShape } from "./rows.ts";

/** Where the up projection is, and where results go. */
export interface ActivationOptions extends OutOptions {
  /** Of the gate's shape; left out, each row holds the gate and then as many elements of this. */
  up?: Tensor;
}

/**
 * Queues out = silu(gate) * up, where silu(x) = x / (1 + exp(-x)); returns out. `gate` [..., dim]
 * with `up`, or both packed as [..., 2 * dim], gate first, are f32, f16 or bf16 of up to three axes
 * with any strides but 1 within a row. Computed in f32 and rounded once. `out` [..., dim] may be
 * the gate or up, or their part of a packed tensor, and may overlap nothing else. Errors:
 * OptionError.
 */
export function siluAndMul(gate: Tensor, options: ActivationOptions = {}): Tensor {
  return activate("siluAndMul", "silu", gate, options);
}

/**
 * Queues out = gelu(gate) * up, where gelu(x) = x (1 + erf(x / sqrt(2))) / 2; returns out. All else
 * is as in {@link siluAndMul}. Errors: OptionError.
 */
export function geluAndMul(gate: Tensor, options: ActivationOptions = {}): Tensor {
  return activate("geluAndMul", "gelu", gate, options);
}

/**
 * Queues out = gelu(gate) * up by gelu's approximation with tanh (arXiv 1606.08415), which Gemma
 * takes; returns out. All else is as in {@link siluAndMul}. Errors: OptionError.
 */
export function geluTanhAndMul(gate: Tensor, options: ActivationOptions = {}): Tensor {
  return activate("geluTanhAndMul", "geluTanh", gate, options);
}

function activate(
  label: string,
  operation: "silu" | "gelu" | "geluTanh",
  gate: Tensor,
  options: ActivationOptions,
): Tensor {
  requireOptions("options", options, ["up", ...outOptions]);
  requireRows("gate", gate, undefined);
  const [a, b] = halvesOf(gate, options.up);
  const out = outOf(label, a, a.shape, options, { gate: a, up: b }, { scale: options.scale });
  return mapRows({ operation, a, b, out }, options);
}

/** The gate and the up projection. */
function halvesOf(gate: Tensor, up: Tensor | undefined): [Tensor, Tensor] {
  if (up !== undefined) {
    requireRows("up", up, gate.device);
    requireShape("up", up, gate.shape);
    return [gate, up];
  }
  const both = dimOf(gate);
  if (both % 2 !== 0)
    throw new OptionError("gate", gate.label, "rows of an even length", "pass up by itself.");
  const axis = gate.shape.length - 1;
  return [gate.slice(axis, 0, both / 2), gate.slice(axis, both / 2, both)];
}
