/** Variants that multiply rows: by a matrix or one of each head, to other widths, beside hooks. */
import { defineVariant } from "../../src/variant/define.ts";
import type { LibraryCase } from "./library.ts";
import type { Random } from "./random.ts";
import { hostTensor, type HostTensor, numbersOf, type VariantCase } from "./variants.ts";
import { normalised, times, turn, turns } from "./vectors.ts";

/** A matrix, or one of each head, that leaves rows about as long as they were. */
function matrix(shape: number[], random: Random): HostTensor {
  return hostTensor(shape, () => random.normal() / Math.sqrt(shape.at(-2)!));
}

const plain: LibraryCase = {
  name: "projections of each head, to other widths",
  over: { queryDim: 48, valueDim: 24, outDim: 40 },
  variant: defineVariant({
    name: "projections",
    tensors: {
      down: { dtype: "bf16", shape: ["queryHeads", 40, 24] },
      up: { dtype: "f32", shape: ["queryHeads", "valueDim", 40] },
    },
    query: (x, { down }) => x.matmul(down),
    output: (x, { up }) => x.matmul(up),
  }),
  inputs: ({ queryHeads }, random) => ({
    down: matrix([queryHeads, 40, 24], random),
    up: matrix([queryHeads, 24, 40], random),
  }),
  meaning: (inputs) => ({
    softmax: true,
    query: (x, { head }) => times(x, inputs.down as HostTensor, head),
    output: (x, { head }) => times(x, inputs.up as HostTensor, head),
  }),
};

const between: LibraryCase = {
  name: "norm, a shared projection and rotation of queries, a gated one of outputs",
  over: { outDim: 16 },
  variant: defineVariant({
    name: "between projections",
    tensors: {
      square: { dtype: "f16", shape: ["headDim", "headDim"] },
      weights: { dtype: "f32", shape: ["headDim"] },
      narrow: { dtype: "bf16", shape: ["valueDim", 16] },
      table: { dtype: "f32", shape: ["any", 8, 2] },
    },
    query: (x, { square, weights, table, element, queryIndex }) =>
      x
        .mul(x.mul(x).sum().div(32).add(1e-6).rsqrt())
        .mul(weights.at(element))
        .matmul(square)
        .rotate({ dim: 16 }, (pair) => [
          table.at(queryIndex, pair, 0),
          table.at(queryIndex, pair, 1),
        ]),
    output: (x, { narrow, lse, element, head }) =>
      x.mul(lse.sigmoid()).matmul(narrow).add(element.add(head).toF32().mul(0.01)),
  }),
  inputs: ({ headDim, valueDim, queryLengths }, random) => ({
    square: matrix([headDim, headDim], random),
    weights: hostTensor([headDim], () => 0.5 + random.next()),
    narrow: matrix([valueDim, 16], random),
    table: turns(Math.max(1, ...queryLengths), 8),
  }),
  meaning: (inputs) => ({
    softmax: true,
    query: (x, { queryIndex }) => {
      const row = normalised(x, numbersOf(inputs, "weights"));
      const product = times(row, inputs.square as HostTensor, 0);
      return turn(product, numbersOf(inputs, "table"), queryIndex, 8);
    },
    output: (x, { head }, lse) =>
      times(
        x.map((value) => value / (1 + Math.exp(-lse))),
        inputs.narrow as HostTensor,
        0,
      ).map((value, d) => value + 0.01 * (d + head)),
  }),
};

const weights: LibraryCase = {
  name: "a projected output without softmax",
  variant: defineVariant({
    name: "relu and projection",
    tensors: { wide: { dtype: "f32", shape: ["queryHeads", "valueDim", "valueDim"] } },
    logits: (x) => x.max(0),
    output: (x, { wide, kvLength }) => x.div(kvLength.add(1).toF32()).matmul(wide),
    softmax: false,
  }),
  inputs: ({ queryHeads, valueDim }, random) => ({
    wide: matrix([queryHeads, valueDim, valueDim], random),
  }),
  meaning: (inputs) => ({
    softmax: false,
    logits: (x) => Math.max(x, 0),
    output: (x, { head, kvLength }) =>
      times(
        x.map((value) => value / (kvLength + 1)),
        inputs.wide as HostTensor,
        head,
      ),
  }),
};

/** From 40 elements to a key's, and from a value's to 48. */
export const toAnyWidth: VariantCase = {
  variant: defineVariant({
    name: "to any width",
    tensors: {
      down: { dtype: "bf16", shape: ["queryHeads", 40, "headDim"] },
      up: { dtype: "f16", shape: ["valueDim", 48] },
    },
    query: (x, { down }) => x.matmul(down),
    output: (x, { up }) => x.matmul(up),
  }),
  inputs: ({ queryHeads, headDim, valueDim }, random) => ({
    down: matrix([queryHeads, 40, headDim], random),
    up: matrix([valueDim, 48], random),
  }),
  meaning: (inputs) => ({
    softmax: true,
    query: (x, { head }) => times(x, inputs.down as HostTensor, head),
    output: (x) => times(x, inputs.up as HostTensor, 0),
  }),
};

export const projectionCases: readonly LibraryCase[] = [plain, between, weights];
