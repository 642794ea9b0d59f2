/**
 * A Llama-shaped decoder from token ids to token ids, with random weights: prompts in one step,
 * then a token each, against the same decoder that computes all tokens anew each time.
 * Run: bun examples/decoder.ts
 */
import {
  argmax,
  Attention,
  type Batch,
  Device,
  gatherRows,
  matmul,
  PagedCache,
  rmsNorm,
  type Sequence,
  Tensor,
  Weight,
} from "flashbun";

const [layers, hidden, heads, kvHeads, headDim, ffn, vocabulary] = [2, 128, 4, 2, 32, 256, 500];

await using device = await Device.open("auto");
const dtype = device.kind === "cpu" ? "f32" : "f16";
let seed = 0;
const random = (...shape: number[]) =>
  Tensor.randomNormal(device, shape, dtype, { seed: seed++, deviation: 1 / Math.sqrt(hidden) });
const weight = (outputs: number, inputs: number) => Weight.dense(random(outputs, inputs));
const ones = () => Tensor.from(device, new Float32Array(hidden).fill(1), [hidden], "f32");

const embedding = random(vocabulary, hidden);
const head = weight(vocabulary, hidden);
const finalNorm = ones();
const blocks = Array.from({ length: layers }, () => ({
  attentionNorm: ones(),
  qkv: weight((heads + 2 * kvHeads) * headDim, hidden),
  out: weight(hidden, heads * headDim),
  mlpNorm: ones(),
  gateUp: weight(2 * ffn, hidden),
  down: weight(hidden, ffn),
}));

const shape = { layers, kvHeads, headDim, dtype } as const;
using cache = PagedCache.create(device, { ...shape, pages: 256, pageSize: 16 });
await using attention = await Attention.create(device, {
  ...shape,
  queryHeads: heads,
  causal: true,
  rope: { theta: 10_000 },
});

/** One step: ids of the batch's tokens in, the next id of each request out; all on the device. */
function step(batch: Batch, ids: Tensor, lastRows: Tensor): Tensor {
  attention.plan(batch);
  const x = gatherRows(embedding, ids);
  const tokens = batch.tokenCount;
  blocks.forEach((block, layer) => {
    using h = rmsNorm(x, block.attentionNorm);
    using qkv = matmul(h, block.qkv);
    const byHead = qkv.reshape(tokens, heads + 2 * kvHeads, headDim);
    const q = byHead.slice(1, 0, heads);
    const k = byHead.slice(1, heads, heads + kvHeads);
    const v = byHead.slice(1, heads + kvHeads, heads + 2 * kvHeads);
    cache.append({ layer, batch, k, v });
    using attended = Tensor.empty(device, [tokens, heads, headDim], dtype);
    attention.run({ layer, q, cache, out: attended });
    matmul(attended.reshape(tokens, heads * headDim), block.out, { residual: x, out: x });
    using normed = rmsNorm(x, block.mlpNorm);
    using gated = matmul(normed, block.gateUp, { gated: true, activation: "silu" });
    matmul(gated, block.down, { residual: x, out: x });
  });
  using last = gatherRows(x, lastRows);
  using normed = rmsNorm(last, finalNorm);
  using logits = matmul(normed, head);
  x[Symbol.dispose]();
  return argmax(logits);
}

/** Runs one step of these tokens for each sequence; returns the next token of each. */
async function next(sequences: Sequence[], tokens: number[][]): Promise<number[]> {
  const counts = tokens.map(({ length }) => length);
  const batch = cache.reserve(sequences, counts);
  if (!batch.ok) throw batch.error;
  let end = 0;
  const lastRows = counts.map((count) => (end += count) - 1);
  using ids = Tensor.from(device, tokens.flat(), [end], "i32");
  using rows = Tensor.from(device, lastRows, [lastRows.length], "i32");
  using chosen = step(batch, ids, rows);
  await device.stream.done();
  return [...(chosen.toTypedArray() as Int32Array)];
}

const prompts = [[1, 2, 3, 4, 5], [400, 7], Array.from({ length: 40 }, (_, i) => 3 * i)];
const said: number[][] = prompts.map(() => []);
const sequences = prompts.map(() => cache.sequence());
let tokens = prompts;
for (let i = 0; i < 8; i++) {
  tokens = (await next(sequences, tokens)).map((token) => [token]);
  said.forEach((answer, request) => answer.push(tokens[request][0]));
}

let same = 0;
for (const [request, prompt] of prompts.entries())
  for (const [i, token] of said[request].entries()) {
    const fresh = cache.sequence();
    const [again] = await next([fresh], [[...prompt, ...said[request].slice(0, i)]]);
    if (again === token) same++;
    fresh.free();
  }
console.log(said.map((answer) => answer.join(" ")).join("\n"));
console.log(`${same} of ${said.flat().length} tokens are those of a full recompute`);
