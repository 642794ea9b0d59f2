import { expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import type { Graph } from "../../src/device/graph.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { deviceTargets } from "../support/targets.ts";

const maxBatch = 16;
const heads = { queryHeads: 4, kvHeads: 2, headDim: 64 };
const graph = { maxBatch, maxQueryTokens: maxBatch, maxQueryLength: 1, maxColumns: 8 };

/** An engine meets its batch sizes in this order, and captures each at its first use. */
const sizes = [1, 2, 4, 8, 16];

test.each(await deviceTargets())("small buckets outlive larger ones, on $name", async (target) => {
  await using device = await target.open(2);
  const dtype = device.kind === "cpu" ? "f32" : "f16";
  const shape = { layers: 1, ...heads, dtype } as const;
  using cache = PagedCache.create(device, { ...shape, pages: 8 * maxBatch, pageSize: 16 });
  using attention = Attention.createSync(device, { ...shape, causal: true, graph });
  using plain = Attention.createSync(device, { ...shape, causal: true });
  const random = (count: number, seed: number) =>
    Tensor.randomNormal(device, [maxBatch, count, 64], dtype, { seed });
  const [q, k, v] = [random(4, 1), random(2, 2), random(2, 3)];
  const [out, expected] = [0, 1].map(() => Tensor.zeros(device, [maxBatch, 4, 64], dtype));
  const sequences = Array.from({ length: maxBatch }, () => cache.sequence());
  const graphs = new Map<number, Graph>();
  for (const size of [...sizes, ...sizes]) {
    const ones = new Array<number>(size).fill(1);
    const batch = cache.reserve(sequences.slice(0, size), ones, { padTo: size });
    if (!batch.ok) throw batch.error;
    const body = () => {
      cache.append({ layer: 0, batch, k, v });
      attention.run({ layer: 0, q, cache, out });
    };
    attention.plan(batch);
    if (!graphs.has(size)) {
      body();
      graphs.set(size, device.capture(device.stream, body));
    }
    graphs.get(size)!.replay(device.stream);
    plain.plan(batch);
    plain.run({ layer: 0, q, cache, out: expected });
    const [got, wanted] = [out, expected].map((each) => each.slice(0, 0, size).toFloat64Array());
    expect(got.some((value, i) => Math.abs(value - wanted[i]) > 0.02)).toBe(false);
  }
});
