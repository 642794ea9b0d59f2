/**
 * Eight requests share a system prompt: it is computed once, and attention reads it once for all.
 * Run: bun examples/shared-prefix.ts
 */
import { Attention, type Batch, Device, PagedCache, Tensor } from "flashbun";

const shape = { layers: 1, queryHeads: 8, kvHeads: 2, headDim: 64, dtype: "f32" } as const;
const tokens = (count: number, seed: number) =>
  Int32Array.from({ length: count }, (_, i) => 7919 * seed + i);

await using device = await Device.open("auto");
using cache = PagedCache.create(device, { ...shape, pages: 512, pageSize: 16 });
using index = cache.prefixIndex();
await using attention = await Attention.create(device, { ...shape, causal: true });

/** Appends and attends, as one layer of a model does. */
function run(batch: Batch): void {
  const random = (heads: number, seed: number) =>
    Tensor.randomNormal(device, [batch.tokenCount, heads, 64], "f32", { seed });
  using q = random(8, 1);
  using k = random(2, 2);
  using v = random(2, 3);
  using out = Tensor.empty(device, q.shape, "f32");
  const { recordCount, mergeCount } = attention.plan(batch);
  cache.append({ layer: 0, batch, k, v });
  attention.run({ layer: 0, q, cache, out });
  device.stream.wait();
  const { layout, tokenCount } = batch;
  const counts = `${layout.levels.length} level(s), ${recordCount} records, ${mergeCount} merges`;
  console.log(`${tokenCount} tokens: ${counts}`);
}

// The first request computes the system prompt and leaves it in the index.
const system = tokens(1024, 1);
const warm = cache.sequence();
const prompt = cache.reserve([warm], [system.length]);
if (!prompt.ok) throw prompt.error;
run(prompt);
index.insert(system, warm);

// Later ones find it and start behind it: only their own 20 tokens are new.
const requests = Array.from({ length: 8 }, (_, i) => {
  const prefix = index.match(Int32Array.from([...system, ...tokens(20, i + 2)]));
  return cache.sequence({ prefix });
});
console.log(`${requests[0].length} tokens of each request come from the index`);

// Neighbours that share pages get a level of their own where the cost model says that it pays: not
// for 20 query tokens each, which would all have to be merged, but for the decode after them.
for (const newTokens of [20, 1]) {
  const batch = cache.reserve(requests, new Int32Array(requests.length).fill(newTokens));
  if (!batch.ok) throw batch.error;
  cache.sharePrefixes(batch, requests, attention.worthSharing);
  run(batch);
}
console.log(`${index.stats.hits} of ${index.stats.lookups} lookups hit`);
