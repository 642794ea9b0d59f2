/**
 * Eight requests share a system prompt: it is computed once, its pages are shared, and attention
 * reads it once for all of them (a cascade of two levels).
 * Run: bun examples/shared-prefix.ts
 */
import { Attention, type Batch, Device, PagedCache, Tensor } from "flashbun";

const shape = { layers: 1, queryHeads: 8, kvHeads: 2, headDim: 64, dtype: "f32" } as const;
const tokens = (count: number, seed: number) =>
  Int32Array.from({ length: count }, (_, i) => (seed * 7919 + i * 31) % 32000);

await using device = await Device.open("auto");
using cache = PagedCache.create(device, { ...shape, pages: 256, pageSize: 16 });
using index = cache.prefixIndex();
await using attention = await Attention.create(device, { ...shape, causal: true });

/** Appends and attends; returns the output. */
function run(batch: Batch): Float64Array {
  const random = (heads: number, seed: number) =>
    Tensor.randomNormal(device, [batch.tokenCount, heads, 64], "f32", { seed });
  using q = random(8, 1);
  using k = random(2, 2);
  using v = random(2, 3);
  using out = Tensor.empty(device, q.shape, "f32");
  const { recordCount, mergeCount } = attention.plan(batch);
  cache.append({ layer: 0, batch, k, v });
  attention.run({ layer: 0, q, cache, out });
  const { levels } = batch.layout;
  console.log(`${levels.length} level(s), ${recordCount} records, ${mergeCount} merges`);
  return out.toFloat64Array();
}

// The first request computes the system prompt and leaves it in the index.
const system = tokens(512, 1);
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
const batch = cache.reserve(requests, new Int32Array(8).fill(20));
if (!batch.ok) throw batch.error;

// Neighbours that share pages get a level of their own, where the callback says that it pays.
cache.sharePrefixes(batch, requests, (sharedTokens, sharers) => sharedTokens * sharers > 1000);
const out = run(batch);
console.log(`${out.length} outputs, ${index.stats.hits} of ${index.stats.lookups} lookups hit`);
