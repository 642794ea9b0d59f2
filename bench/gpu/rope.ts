import {
  applyRope,
  normRopeAppend,
  type NormRopeAppendTensors,
  PagedCache,
  Rope,
  Tensor,
} from "../../src/index.ts";
import { dtypeBytes } from "../../src/tensor/dtype.ts";
import { copiesOf, type GpuBench, type GpuCase, type GpuRow, runsOf, timeOf } from "./bench.ts";
import { besideCompiled, moved } from "./operators.ts";

const [queryHeads, kvHeads, dim] = [32, 8, 128];

/** Rotation of new tokens, and QK norm, rotation and append in one. */
export const ropeCases: GpuCase[] = [
  { name: "rope/bf16/t16384_h40_d128", run: (bench) => rope(bench, 16_384) },
  { name: "rope/bf16/t64_h40_d128", run: (bench) => rope(bench, 64) },
  { name: "rope/bf16/t1_h40_d128", run: (bench) => rope(bench, 1) },
  { name: "norm_rope_append/bf16/t16384_h48_d128", run: (bench) => append(bench, 16_384, "bf16") },
  { name: "norm_rope_append/f8e4m3/t16384_h48_d128", run: (bench) => append(bench, 16_384) },
  { name: "norm_rope_append/f8e4m3/t64_h48_d128", run: (bench) => append(bench, 64) },
];

async function rope(bench: GpuBench, most: number): Promise<GpuRow[]> {
  const { device } = bench;
  const tokens = bench.quick ? Math.min(most, 64) : most;
  const heads = queryHeads + kvHeads;
  const bytes = 2 * 2 * tokens * heads * dim;
  const copies = copiesOf(bench, bytes);
  using turns = Rope.create(device, dim, { theta: 5e5 });
  using positions = placesOf(bench, tokens);
  const all = Array.from({ length: copies }, (_, seed) =>
    Tensor.randomNormal(device, [tokens, heads, dim], "bf16", { seed }),
  );
  const views = all.map((x) => [x.slice(1, 0, queryHeads), x.slice(1, queryHeads, heads)]);
  const asked = { operator: "rope", dtype: "bf16", rows: tokens, dim, copies };
  const row = await besideCompiled(bench, bytes, asked, (run) => {
    const [q, k] = views[run % copies];
    applyRope(q, k, positions, turns);
  });
  for (const x of all) x[Symbol.dispose]();
  return [row];
}

/** QK norm, RoPE and append, of a product of queries, keys and values. */
async function append(
  bench: GpuBench,
  most: number,
  dtype: "bf16" | "f8e4m3" = "f8e4m3",
): Promise<GpuRow[]> {
  const { device } = bench;
  const tokens = bench.quick ? Math.min(most, 64) : most;
  const heads = queryHeads + 2 * kvHeads;
  const kept = 2 * kvHeads * dtypeBytes(dtype);
  const bytes = tokens * dim * (2 * heads + 2 * queryHeads + kept);
  const layers = copiesOf(bench, bytes);
  const pages = Math.ceil(tokens / 16);
  const shape = { layers, kvHeads, headDim: dim, dtype, pages, pageSize: 16, maxSequences: 1 };
  using cache = PagedCache.create(device, shape);
  const batch = cache.reserve([cache.sequence()], [tokens]);
  if (!batch.ok) throw batch.error;
  using turns = Rope.create(device, dim, { theta: 5e5 });
  using positions = placesOf(bench, tokens);
  using weight = Tensor.randomNormal(device, [dim], "bf16", { seed: 0 });
  const all = Array.from({ length: layers }, (_, seed) =>
    Tensor.randomNormal(device, [tokens, heads, dim], "bf16", { seed }),
  );
  const outs = all.map(() => Tensor.empty(device, [tokens, queryHeads, dim], "bf16"));
  const tensors = all.map((x, layer): NormRopeAppendTensors => {
    const end = queryHeads + kvHeads;
    const [q, k] = [x.slice(1, 0, queryHeads), x.slice(1, queryHeads, end)];
    const norms = { qWeight: weight, kWeight: weight, out: outs[layer] };
    return { layer, batch, q, k, v: x.slice(1, end, heads), rope: turns, positions, ...norms };
  });
  normRopeAppend(cache, tensors[0]);
  const ms = await timeOf(bench, runsOf(bench, layers), (run) => {
    normRopeAppend(cache, tensors[run % layers]);
  });
  for (const x of [...all, ...outs]) x[Symbol.dispose]();
  return [moved(bench, bytes, ms)];
}

function placesOf({ device }: GpuBench, tokens: number): Tensor {
  return Tensor.from(device, Int32Array.from(new Array(tokens).keys()), [tokens], "i32");
}
