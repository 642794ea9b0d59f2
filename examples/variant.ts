/**
 * An attention of your own: logits capped by tanh, and of the keys only the last 256 and the first
 * 4, as StreamingLLM keeps them. Run: bun examples/variant.ts
 */
import { Attention, coverageOf, defineVariant, Device, PagedCache, Tensor } from "flashbun";

const [window, sinks] = [256, 4];
const variant = defineVariant({
  name: "capped window with sinks",
  scalars: { cap: "f32" },
  logits: (x, { cap }) => x.div(cap).tanh().mul(cap),
  mask: ({ query, key }) => key.le(query).and(query.sub(key).lt(window).or(key.lt(sinks))),
  visible({ queryStart, queryEnd }, ranges) {
    ranges.add(0, sinks, queryStart + 1 >= sinks);
    ranges.add(queryStart + 1 - window, queryEnd, queryEnd - queryStart === 1);
  },
});

const shape = { queryHeads: 8, kvHeads: 2, headDim: 64, dtype: "bf16" } as const;
await using device = await Device.open("auto");
using cache = PagedCache.create(device, { ...shape, layers: 1, pages: 300, pageSize: 16 });
await using attention = await Attention.create(device, { ...shape, variant });

const sequence = cache.sequence();
for (const tokens of [4000, 1]) {
  const batch = cache.reserve([sequence], [tokens]);
  if (!batch.ok) throw batch.error;
  const noise = (heads: number, seed: number) =>
    Tensor.randomNormal(device, [tokens, heads, 64], "bf16", { seed });
  using q = noise(8, 1);
  using k = noise(2, 2);
  using v = noise(2, 3);
  using out = Tensor.empty(device, [tokens, 8, 64], "bf16");
  const plan = attention.plan(batch);
  cache.append({ layer: 0, batch, k, v });
  attention.run({ q, cache, out, variantInputs: { cap: 20 } });
  await device.stream.done();
  const { all, planned } = coverageOf(plan, batch);
  const part = ((100 * planned) / all).toFixed(1);
  console.log(`${tokens} new tokens: ${part} % of all pairs were planned`);
}
