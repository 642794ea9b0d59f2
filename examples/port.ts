/**
 * The decode loop of an engine that has a block manager of its own, ported from FlashInfer: its
 * pages, page tables and graph stay as they are. Above each call stands what it was there.
 * Run: bun examples/port.ts
 */
import { appendPages, Attention, Device, PageLists, Tensor } from "flashbun";

const [layers, pageSize, pageCount, maxBatch] = [2, 16, 64, 4];
const heads = { queryHeads: 8, kvHeads: 2, headDim: 64, dtype: "f32" } as const;
const device = await Device.open("cpu");
const zeros = (...shape: number[]) => Tensor.zeros(device, shape, "f32");
const noise = (seed: number, ...shape: number[]) =>
  Tensor.randomNormal(device, shape, "f32", { seed });

// kv_cache = torch.zeros(layers, 2, pages, page_size, kv_heads, dim)
const cache = Array.from({ length: layers }, () => ({
  k: zeros(pageCount, pageSize, heads.kvHeads, heads.headDim),
  v: zeros(pageCount, pageSize, heads.kvHeads, heads.headDim),
}));

// workspace = torch.empty(128 << 20); BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD",
//   use_cuda_graph=True, paged_kv_indptr_buffer=..., paged_kv_indices_buffer=..., ...)
const lists = PageLists.create(device, {
  pageSize,
  pageCount,
  maxBatch,
  maxQueryTokens: maxBatch,
  maxEntries: pageCount,
});
const graph = { maxBatch, maxQueryTokens: maxBatch, maxQueryLength: 1, maxColumns: 16 };
const attention = await Attention.create(device, { ...heads, causal: true, graph });

/** The engine's block manager: page lists and lengths by request. */
const requests = [18, 5, 40, 1].map((length) => ({ length, pages: [] as number[] }));
let nextPage = 0;

/** One more token for each request, and pages for it. */
function allot(): { indptr: number[]; indices: number[]; kvLengths: number[] } {
  const indptr = [0];
  for (const request of requests) {
    request.length++;
    while (request.pages.length * pageSize < request.length) request.pages.push(nextPage++);
    indptr.push(indptr[indptr.length - 1] + request.pages.length);
  }
  const indices = requests.flatMap(({ pages }) => pages);
  return { indptr, indices, kvLengths: requests.map(({ length }) => length) };
}

const q = noise(1, maxBatch, heads.queryHeads, heads.headDim); // yours: projections of the step
const k = noise(2, maxBatch, heads.kvHeads, heads.headDim);
const v = noise(3, maxBatch, heads.kvHeads, heads.headDim);
const out = zeros(maxBatch, heads.queryHeads, heads.headDim);

function step(): void {
  // wrapper.plan(indptr, indices, last_page_len, qo_heads, kv_heads, dim, page_size, ...)
  const queryIndptr = Array.from({ length: maxBatch + 1 }, (_, i) => i);
  attention.plan(lists.step({ queryIndptr, ...allot() }));
}

function forward(): void {
  const batch = lists.lastBatch!;
  for (const pages of cache) {
    // append_paged_kv_cache(k, v, batch_indices, positions, kv_cache, indices, indptr, last)
    const planes = [
      { rows: k, pages: pages.k },
      { rows: v, pages: pages.v },
    ];
    appendPages({ planes, batch });
    // wrapper.run(q, kv_cache, out=out)
    attention.run({ q, k: pages.k, v: pages.v, out });
  }
}

step();
forward();
// with torch.cuda.graph(g): forward()
const captured = device.capture(device.stream, forward);
for (let i = 0; i < 20; i++) {
  step();
  captured.replay(device.stream); // g.replay()
}
await device.stream.done();
const lengths = requests.map(({ length }) => length).join(", ");
console.log(
  `lengths ${lengths} in ${nextPage} pages, output ${out.toFloat64Array()[0].toFixed(4)}`,
);
captured[Symbol.dispose]();
await attention[Symbol.asyncDispose]();
lists[Symbol.dispose]();
await device[Symbol.asyncDispose]();
