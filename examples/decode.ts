/**
 * Paged decode of two sequences: each prompt goes in once, then both grow by a token per step.
 * Run: bun examples/decode.ts
 */
import { Attention, type Batch, Device, PagedCache, Tensor } from "flashbun";

const shape = { layers: 2, queryHeads: 8, kvHeads: 2, headDim: 64, dtype: "f32" } as const;

await using device = await Device.open("auto");
using cache = PagedCache.create(device, { ...shape, pages: 64, pageSize: 16 });
await using attention = await Attention.create(device, { ...shape, causal: true });

/** Stands in for a model: random projections of the batch's tokens, and the layers over them. */
async function step(batch: Batch, seed: number): Promise<number> {
  const random = (heads: number, offset: number) =>
    Tensor.randomNormal(device, [batch.tokenCount, heads, shape.headDim], shape.dtype, {
      seed: 3 * seed + offset,
    });
  using q = random(shape.queryHeads, 0);
  using k = random(shape.kvHeads, 1);
  using v = random(shape.kvHeads, 2);
  using out = Tensor.empty(device, q.shape, shape.dtype);

  attention.plan(batch); // once per step, for all layers
  for (let layer = 0; layer < shape.layers; layer++) {
    cache.append({ layer, batch, k, v });
    attention.run({ layer, q, cache, out });
  }
  await device.stream.done(); // the event loop turns meanwhile
  return out.toFloat64Array()[0];
}

const sequences = [cache.sequence(), cache.sequence()];
let newTokens = [100, 7]; // the prompts
for (let seed = 0; seed < 5; seed++) {
  const batch = cache.reserve(sequences, newTokens);
  if (!batch.ok) throw batch.error; // a server would preempt a sequence here
  const first = await step(batch, seed);
  const lengths = sequences.map(({ length }) => length).join(" and ");
  console.log(`step ${seed}: ${lengths} tokens, first output ${first.toFixed(4)}`);
  newTokens = [1, 1];
}
