import type { VariantInputs } from "../../src/attention/variant/inputs.ts";
import type { Device } from "../../src/device/device.ts";
import { isFloat, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { type Environment, Evaluator } from "../../src/variant/evaluate.ts";
import type { HookName } from "../../src/variant/expression.ts";
import type { Variant } from "../../src/variant/variant.ts";
import { hookError } from "./hook-error.ts";
import type { OracleKey, OracleRow, OracleVariant } from "./oracle.ts";
import type { Random } from "./random.ts";

/** A tensor's numbers, row-major. */
export interface HostTensor {
  shape: number[];
  data: Float64Array;
}

/** A variant's tensors and scalars on the host, by name. */
export type HostInputs = Record<string, HostTensor | number>;

/** What the inputs of a batch are sized by. */
export interface HostSizes {
  tokens: number;
  /** Rows of keys: pages x page size, or ragged tokens. */
  slots: number;
  queryHeads: number;
  kvHeads: number;
  headDim: number;
  valueDim: number;
  queryLengths: number[];
  kvLengths: number[];
}

/** A variant for a case: how its inputs are made and what it means. */
export interface VariantCase {
  variant: Variant;
  inputs?: (sizes: HostSizes, random: Random) => HostInputs;
  /** By hand, apart from the variant language; absent: what the hooks evaluate to. */
  meaning?: (inputs: HostInputs) => OracleVariant;
}

/** A tensor of numbers made by `make`. */
export function hostTensor(shape: number[], make: (index: number) => number): HostTensor {
  const count = shape.reduce((product, size) => product * size, 1);
  return { shape, data: Float64Array.from({ length: count }, (_, index) => make(index)) };
}

/** The numbers of a tensor among the inputs. */
export function numbersOf(inputs: HostInputs, name: string): Float64Array {
  return (inputs[name] as HostTensor).data;
}

/** Inputs of a case as the device sees them: rounded to the dtypes that the variant declares. */
export function inputsOf(c: VariantCase, sizes: HostSizes, random: Random): HostInputs {
  const inputs = c.inputs?.(sizes, random) ?? {};
  for (const { name, dtype } of c.variant.tensors) {
    const { shape, data } = inputs[name] as HostTensor;
    if (isFloat(dtype)) inputs[name] = { shape, data: roundTo(dtype, data) };
  }
  return inputs;
}

/** The inputs on a device, each tensor with NaN or large numbers around it. */
export function uploadInputs(device: Device, { tensors }: Variant, inputs: HostInputs) {
  const owned: Tensor[] = [];
  const given: Record<string, Tensor | number> = {};
  for (const [name, input] of Object.entries(inputs)) {
    if (typeof input === "number") {
      given[name] = input;
      continue;
    }
    const { dtype } = tensors.find((spec) => spec.name === name)!;
    // Every second element of the innermost axis, so that strides count.
    const { shape, data } = input;
    const spread = new Float64Array(2 * data.length).fill(isFloat(dtype) ? NaN : 77);
    data.forEach((value, i) => (spread[2 * i] = value));
    const whole = Tensor.from(device, spread, [...shape, 2], dtype);
    owned.push(whole);
    given[name] = whole.select(shape.length, 0);
  }
  return { given: given as VariantInputs, owned };
}

/** What a traced variant means: its hooks, evaluated in f64. */
export function evaluated(variant: Variant, inputs: HostInputs): OracleVariant {
  const common: Omit<Environment, "inputs"> = {
    scalars: variant.scalars.map(({ name, fallback }) => (inputs[name] as number) ?? fallback),
    tensors: variant.tensors.map(({ name }) => {
      const { shape, data } = inputs[name] as HostTensor;
      return { data, sizes: shape };
    }),
  };
  const hook = <R>(name: HookName, use: (evaluator: Evaluator) => R): R | undefined => {
    const node = variant.hooks[name];
    return node && use(new Evaluator(node));
  };
  const vector = (evaluator: Evaluator) => (x: Float64Array, at: OracleRow | OracleKey) =>
    evaluator.vector(x, { ...common, inputs: { ...at } });
  const { logits } = variant.hooks;
  const logitsError = variant.softmax || logits === undefined ? undefined : hookError(logits);
  return {
    softmax: variant.softmax,
    logitsError:
      logitsError && ((x, row, key) => logitsError({ ...common, inputs: { ...row, ...key, x } })),
    query: hook("query", vector),
    key: hook("key", vector),
    value: hook("value", vector),
    logits: hook("logits", (evaluator) => (x, row, key) => {
      return evaluator.run({ ...common, inputs: { ...row, ...key, x } });
    }),
    mask: hook("mask", (evaluator) => (row, key) => {
      return evaluator.run({ ...common, inputs: { ...row, ...key } }) !== 0;
    }),
    output: hook("output", (evaluator) => (x, row, lse) => {
      return evaluator.vector(x, { ...common, inputs: { ...row, lse } });
    }),
  };
}
