import { dtypeBytes } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Weight } from "../tensor/weight.ts";
import { bulkReaches, type MatmulKernel, type Wanted } from "./matmul-maps.ts";

/** A kernel of few rows, kernels/matmul/thin.cu, flat.cu, gathered.cu and coded.cu. */
interface Few {
  /** Of its name, where no rows are named and the weight is not in codes. */
  readonly family?: "thin" | "flat";
  /** Rows of x of an item. */
  readonly tokens: number;
  /** Rows of the weight of an item. */
  readonly outputs: number;
  /** Rows of the weight that one bulk copy takes. */
  readonly box: number;
}

const low: readonly Few[] = [
  ...[8, 16, 32].map((tokens) => ({ family: "thin", tokens, outputs: 128, box: 64 }) as const),
  { family: "flat", tokens: 64, outputs: 128, box: 32 },
];
/** By the bytes of an element. */
const few: Readonly<Record<1 | 2, readonly Few[]>> = {
  1: low,
  2: [...low, { family: "flat", tokens: 128, outputs: 112, box: 56 }],
};

/** The same of weights in codes, kernels/matmul/coded.cu. */
const coded: readonly Few[] = [8, 32].map((tokens) => ({ tokens, outputs: 128, box: 64 }) as const);

/** Rows of x that a cluster of kernels/matmul/wide.cu takes, and of which one copy takes half. */
const wideRows = 256;
const wideOutputs = 256;

/** Blocks that share the inputs of an item at most, and the fewest steps that each is left. */
const mostBlocks = 8;
const leastSteps = 4;
const stepBytes = 128;
/**
 * Most blocks that share a weight, of the multiprocessors. Where two fit on each and half of a
 * settled weight may lie in their shared memory before x is there, more are better.
 */
const readersMost = { one: 0.9, two: 0.75, twoSettled: 1.5 };
/** What a large tile of the kernel of few rows costs, beside the same work of that of many. */
const thinCost = 1.3;

/** The kernel of compute capability 9.0 for a product; undefined: others have to take it. */
export function hopperKernel(x: Tensor, weight: Weight, wanted: Wanted): MatmulKernel | undefined {
  const { kind, properties } = x.device;
  if (kind === "cpu" || wanted.invariant) return undefined;
  if (properties.computeMajor !== 9 || properties.computeMinor !== 0) return undefined;
  if (!bulkReaches(x) || !bulkReaches(weight.scheme.values)) return undefined;
  const bytes = operandBytes(x, weight);
  if (bytes === undefined) return wanted.gathers ? undefined : codedKernel(x, weight, wanted);
  // A block of scales would end within a tile.
  if (bytes === 1 && wanted.gated && wanted.columns % 64 !== 0) return undefined;
  return wgmmaKernel(x, weight, wanted, bytes);
}

function wgmmaKernel(x: Tensor, weight: Weight, wanted: Wanted, bytes: 1 | 2): MatmulKernel {
  const { processors } = x.device.properties;
  const each = wanted.rows / (weight.experts ?? 1);
  const row = few[bytes].find(({ tokens }) => each <= tokens) ?? few[bytes].at(-1)!;
  const hasRoom = bytes === 2 && row.family === "thin";
  const two = wanted.settled ? readersMost.twoSettled : readersMost.two;
  const most = hasRoom ? two : readersMost.one;
  const isOdd = hasRoom || row.family === "flat";
  const { items, split } = shareOf(x, weight, wanted.rows, row, most, isOdd);
  const clusters = itemsOf(wanted.rows, wideRows, weight, wideOutputs);
  const pairs = Math.floor(processors / 2);
  const wideTime = (Math.ceil(clusters / pairs) * wideOutputs) / 128;
  const size = (row.tokens * row.outputs) / 128 ** 2;
  const thinTime = (Math.ceil((items * split) / processors) * thinCost * size) / split;
  const type = bytes === 1 ? "e4m3" : x.dtype;
  // Of fp8 the kernel of many rows takes no rows that out names.
  const isWide = each > 64 && (bytes === 2 || !wanted.gathers);
  if (isWide && wideTime <= thinTime) {
    const boxes = { x: wideRows / 2, weight: wideOutputs / 2 };
    return { name: `matmul_wide_${type}`, itemRows: wideRows, boxes };
  }
  const family = wanted.gathers ? "gathered" : row.family;
  return fewKernel(`matmul_${family}${bytes === 1 ? "_e4m3" : ""}`, row, split);
}

/** The kernel for 16-bit rows and a weight in codes of which steps fill whole groups. */
function codedKernel(x: Tensor, weight: Weight, { rows }: Wanted): MatmulKernel | undefined {
  const { scheme, inputs } = weight;
  if (scheme.kind === "dense" || (x.dtype !== "f16" && x.dtype !== "bf16")) return undefined;
  const stepInputs = scheme.values.dtype === "u8" ? 2 * stepBytes : stepBytes;
  if (inputs % stepInputs !== 0) return undefined;
  if (weight.tensors.some(({ address }) => address % 16 !== 0)) return undefined;
  const row = coded.find(({ tokens }) => rows / (weight.experts ?? 1) <= tokens) ?? coded.at(-1)!;
  const { split } = shareOf(x, weight, rows, row, readersMost.one, false);
  const kind = scheme.kind === "fp8" ? "fp8" : scheme.values.dtype;
  return fewKernel(`matmul_coded_${x.dtype}_${kind}`, row, split);
}

function fewKernel(name: string, { tokens, box }: Few, split: number): MatmulKernel {
  return {
    name: `${name}_${tokens}_x${split}`,
    itemRows: tokens,
    boxes: { x: tokens, weight: box },
  };
}

/** Bytes of an element of both operands, where wgmma multiplies them. */
function operandBytes(x: Tensor, { scheme }: Weight): 1 | 2 | undefined {
  if (x.dtype !== scheme.values.dtype) return undefined;
  if (scheme.kind === "fp8" && x.dtype === "f8e4m3") return 1;
  return scheme.kind === "dense" && (x.dtype === "f16" || x.dtype === "bf16") ? 2 : undefined;
}

function itemsOf(rows: number, itemRows: number, weight: Weight, outputs: number): number {
  const rowBlocks = Math.ceil(rows / itemRows) + (weight.experts ?? 1) - 1;
  return rowBlocks * Math.ceil(weight.outputs / outputs);
}

/**
 * Items, and blocks of each, `readers` times the multiprocessors at most: what blocks share takes
 * time, and the next kernel's begin beside them.
 */
function shareOf(
  x: Tensor,
  weight: Weight,
  rows: number,
  { tokens, outputs }: Few,
  readers: number,
  odd: boolean,
) {
  const { processors } = x.device.properties;
  const items = itemsOf(rows, tokens, weight, outputs);
  const { values } = weight.scheme;
  const steps = (values.shape.at(-1)! * dtypeBytes(values.dtype)) / stepBytes;
  const most = Math.min(mostBlocks, processors, steps / leastSteps);
  // Clusters of 3, 5, 6 or 7, where `odd` allows them, come as close to `readers` as items do.
  const next = (split: number) => (odd ? split + 1 : 2 * split);
  let split = 1;
  while (next(split) <= most && items * next(split) < readers * processors) split = next(split);
  return { items, split };
}
