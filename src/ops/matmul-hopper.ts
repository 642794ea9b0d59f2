import type { Tensor } from "../tensor/tensor.ts";
import type { Weight } from "../tensor/weight.ts";
import { bulkReaches, type MatmulKernel, type Wanted } from "./matmul-maps.ts";

/** A kernel of few rows, kernels/matmul/thin.cu: the weight's rows are the first operand. */
interface Thin {
  /** Rows of x of an item. */
  readonly tokens: number;
  /** Rows of the weight of an item. */
  readonly outputs: number;
  /** Blocks that a multiprocessor runs at once. */
  readonly blocks: number;
}

const thin: readonly Thin[] = [
  { tokens: 8, outputs: 128, blocks: 2 },
  { tokens: 16, outputs: 128, blocks: 2 },
  { tokens: 32, outputs: 128, blocks: 2 },
  { tokens: 64, outputs: 256, blocks: 1 },
  { tokens: 128, outputs: 128, blocks: 1 },
];

/** Rows of x that a cluster of kernels/matmul/wide.cu takes, and of which one copy takes half. */
const wideRows = 256;
const wideOutputs = { 2: 256, 1: 128 };
const thinBox = 64;

/** Blocks that share the inputs of an item at most, and the fewest steps that each is left. */
const mostBlocks = 8;
const leastSteps = 4;
const stepBytes = 128;
/** What a large tile of the kernel of few rows costs, beside the same work of that of many. */
const thinCost = 1.3;

/** The kernel of compute capability 9.0 for a product; undefined: others have to take it. */
export function hopperKernel(x: Tensor, weight: Weight, wanted: Wanted): MatmulKernel | undefined {
  const bytes = operandBytes(x, weight);
  if (bytes === undefined || wanted.invariant || wanted.gathers) return undefined;
  const { properties } = x.device;
  if (properties.computeMajor !== 9 || properties.computeMinor !== 0) return undefined;
  if (!bulkReaches(x) || !bulkReaches(weight.scheme.values)) return undefined;
  // A block of scales would end within a tile.
  if (bytes === 1 && wanted.gated && wanted.columns % 64 !== 0) return undefined;
  const { processors } = properties;
  const each = wanted.rows / (weight.experts ?? 1);
  const some = bytes === 1 ? thin.slice(0, -1) : thin;
  const row = some.find(({ tokens }) => each <= tokens) ?? some.at(-1)!;
  const items = itemsOf(wanted.rows, row.tokens, weight, row.outputs);
  const steps = Math.ceil((weight.inputs * bytes) / stepBytes);
  const split = splitOf(items, row.blocks * processors, steps, processors);
  const clusters = itemsOf(wanted.rows, wideRows, weight, wideOutputs[bytes]);
  const pairs = Math.floor(processors / 2);
  const wideTime = (Math.ceil(clusters / pairs) * wideOutputs[bytes]) / 128;
  const size = (row.tokens * row.outputs) / 128 ** 2;
  const thinTime = (Math.ceil((items * split) / processors) * thinCost * size) / split;
  const type = bytes === 1 ? "e4m3" : x.dtype;
  if (each > row.tokens / 2 && each > 64 && wideTime <= thinTime) {
    const boxes = { x: wideRows / 2, weight: wideOutputs[bytes] / 2 };
    return { name: `matmul_wide_${type}`, itemRows: wideRows, boxes };
  }
  const prefix = bytes === 1 ? "matmul_thin_e4m3" : "matmul_thin";
  const boxes = { x: row.tokens, weight: thinBox };
  return { name: `${prefix}_${row.tokens}_x${split}`, itemRows: row.tokens, boxes };
}

/** Bytes of an element of both operands, where wgmma multiplies them. */
function operandBytes(x: Tensor, { scheme }: Weight): 1 | 2 | undefined {
  if (x.device.kind === "cpu" || x.dtype !== scheme.values.dtype) return undefined;
  if (scheme.kind === "fp8" && x.dtype === "f8e4m3") return 1;
  return scheme.kind === "dense" && (x.dtype === "f16" || x.dtype === "bf16") ? 2 : undefined;
}

function itemsOf(rows: number, itemRows: number, weight: Weight, outputs: number): number {
  const rowBlocks = Math.ceil(rows / itemRows) + (weight.experts ?? 1) - 1;
  return rowBlocks * Math.ceil(weight.outputs / outputs);
}

/** Blocks of a cluster: as many as keep all items at work at once, and have inputs to share. */
function splitOf(items: number, resident: number, steps: number, processors: number): number {
  let split = 1;
  while (
    2 * split <= Math.min(mostBlocks, processors) &&
    2 * split * items <= resident &&
    2 * split * leastSteps <= steps
  )
    split *= 2;
  return split;
}
