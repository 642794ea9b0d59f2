/**
 * Speculative decoding with a tree of drafts: seven draft tokens are checked in one step under a
 * tree mask, then the accepted path is kept and the rest of the tree is dropped.
 * Run: bun examples/tree-draft.ts
 */
import { Attention, type Batch, Device, PagedCache, Tensor } from "flashbun";

const shape = { layers: 1, queryHeads: 8, kvHeads: 2, headDim: 64, dtype: "f32" } as const;

await using device = await Device.open("auto");
using cache = PagedCache.create(device, { ...shape, pages: 64, pageSize: 16 });
await using prefill = await Attention.create(device, { ...shape, causal: true });
// "tail": the mask is about the last queryLength keys, all keys before them are visible.
await using verify = await Attention.create(device, { ...shape, mask: "tail" });

type Mask = { maskBits?: Tensor; maskIndptr?: Tensor };

function run(attention: Attention, batch: Batch, mask: Mask) {
  const random = (heads: number, seed: number) =>
    Tensor.randomNormal(device, [batch.tokenCount, heads, 64], "f32", { seed });
  using q = random(8, 1);
  using k = random(2, 2);
  using v = random(2, 3);
  using out = Tensor.empty(device, q.shape, "f32");
  attention.plan(batch);
  cache.append({ layer: 0, batch, k, v });
  attention.run({ layer: 0, q, cache, out, ...mask });
  return out.toFloat64Array();
}

const sequence = cache.sequence();
const prompt = cache.reserve([sequence], [50]);
if (!prompt.ok) throw prompt.error;
run(prefill, prompt, {});

// Parent of each draft; -1 is the root. A draft sees itself and its ancestors.
const parents = [-1, 0, 0, 1, 1, 2, 2];
const depths: number[] = [];
const bits = new Uint8Array(Math.ceil(parents.length ** 2 / 8));
for (let draft = 0; draft < parents.length; draft++) {
  depths.push(parents[draft] < 0 ? 0 : depths[parents[draft]] + 1);
  for (let seen = draft; seen >= 0; seen = parents[seen]) {
    const bit = draft * parents.length + seen; // rows of queries, little-endian within a byte
    bits[bit >> 3] |= 1 << (bit & 7);
  }
}
const positions = depths.map((depth) => sequence.length + depth); // siblings share a position
const drafts = cache.reserve([sequence], [parents.length], { positions });
if (!drafts.ok) throw drafts.error;
using maskBits = Tensor.from(device, bits, [bits.length], "u8");
using maskIndptr = Tensor.from(device, [0], [1], "i32");
const out = run(verify, drafts, { maskBits, maskIndptr });
console.log(`${parents.length} drafts checked in one step, ${out.length} outputs`);

// Say the model agrees with the path 0, 2, 5: their K/V move together, the others are dropped.
sequence.compact([0, 2, 5]);
console.log(`the sequence now holds ${sequence.length} tokens`);
