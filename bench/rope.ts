import { applyRope, normRopeAppend, PagedCache, Rope, Tensor } from "../src/index.ts";
import { dtypeBytes } from "../src/tensor/dtype.ts";
import type { Bench, Case, Measured } from "./bench.ts";
import { moved } from "./operators.ts";

const [queryHeads, kvHeads, dim] = [32, 8, 128];

/** Rotation of new tokens, and QK norm, rotation and append in one; in bytes read and written. */
export const ropeCases: Case[] = [
  { name: "rope/bf16_t8192_h40_d128", run: (bench) => rope(bench, "bf16") },
  { name: "rope/f32_t8192_h40_d128", run: (bench) => rope(bench, "f32") },
  { name: "norm_rope_append/bf16_t4096_h48_d128", run: (bench) => append(bench, "bf16") },
  { name: "norm_rope_append/f8e4m3_t4096_h48_d128", run: (bench) => append(bench, "f8e4m3") },
];

async function rope(bench: Bench, dtype: "bf16" | "f32"): Promise<Measured> {
  const { device, quick } = bench;
  const [tokens, heads] = [quick ? 16 : 8192, queryHeads + kvHeads];
  using x = Tensor.randomNormal(device, [tokens, heads, dim], dtype, { seed: 1 });
  using turns = Rope.create(device, dim, { theta: 5e5 });
  using positions = placesOf(bench, tokens);
  const [q, k] = [x.slice(1, 0, queryHeads), x.slice(1, queryHeads, heads)];
  const bytes = 2 * x.elements * dtypeBytes(dtype);
  return await moved(bench, bytes, () => applyRope(q, k, positions, turns));
}

/** Of a product of queries, keys and values. */
async function append(bench: Bench, dtype: "bf16" | "f8e4m3"): Promise<Measured> {
  const { device, quick } = bench;
  const tokens = quick ? 16 : 4096;
  const [end, heads] = [queryHeads + kvHeads, queryHeads + 2 * kvHeads];
  const shape = { layers: 1, kvHeads, headDim: dim, dtype, pages: tokens / 16, pageSize: 16 };
  using cache = PagedCache.create(device, shape);
  const batch = cache.reserve([cache.sequence()], [tokens]);
  if (!batch.ok) throw batch.error;
  using x = Tensor.randomNormal(device, [tokens, heads, dim], "bf16", { seed: 1 });
  using weight = Tensor.randomNormal(device, [dim], "bf16", { seed: 2 });
  using out = Tensor.empty(device, [tokens, queryHeads, dim], "bf16");
  using turns = Rope.create(device, dim, { theta: 5e5 });
  using positions = placesOf(bench, tokens);
  const [q, k] = [x.slice(1, 0, queryHeads), x.slice(1, queryHeads, end)];
  const v = x.slice(1, end, heads);
  const norms = { qWeight: weight, kWeight: weight };
  const tensors = { layer: 0, batch, q, k, v, rope: turns, positions, out, ...norms };
  const kept = 2 * kvHeads * dtypeBytes(dtype);
  const bytes = tokens * dim * (2 * heads + 2 * queryHeads + kept);
  return await moved(bench, bytes, () => void normRopeAppend(cache, tensors));
}

function placesOf({ device }: Bench, tokens: number): Tensor {
  return Tensor.from(device, Int32Array.from(new Array(tokens).keys()), [tokens], "i32");
}
