/** What grows with steps: it ends, and what was captured goes on. */
import { expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import { PageLists } from "../../src/cache/page-lists.ts";
import type { Device } from "../../src/device/device.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { raggedLayout } from "../../src/kv/layout.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { seeded } from "../support/random.ts";
import { deviceTargets } from "../support/targets.ts";

const heads = { queryHeads: 4, kvHeads: 2, headDim: 64 };
const targets = await deviceTargets();
const dtypeOf = ({ kind }: Device) => (kind === "cpu" ? "f32" : "f16");

/** One query over so many keys: split among processors, so that states are merged. */
function long(keys: number) {
  const layout = raggedLayout([0, 1], [0, keys]);
  return createBatch({ queryLengths: [1], kvLengths: [keys], layout });
}

test.each(targets)(
  "a graph outlives growth of its stream's workspace, on $name",
  async (target) => {
    await using device = await target.open(2);
    const dtype = dtypeOf(device);
    const shape = { layers: 1, ...heads, dtype } as const;
    using cache = PagedCache.create(device, { ...shape, pages: 8, pageSize: 16 });
    const graph = { maxBatch: 2, maxQueryTokens: 2, maxColumns: 4 };
    using captured = Attention.createSync(device, { ...shape, causal: true, graph });
    using plain = Attention.createSync(device, { ...shape, causal: true });
    const noise = (dims: number[], seed: number) =>
      Tensor.randomNormal(device, dims, dtype, { seed });
    const [q, k] = [noise([2, 4, 64], 1), noise([2, 2, 64], 2)];
    const [out, expected] = [0, 1].map(() => Tensor.zeros(device, [2, 4, 64], dtype));
    const sequences = [cache.sequence(), cache.sequence()];
    const step = () => {
      const batch = cache.reserve(sequences, [1, 1], { padTo: 2 });
      if (!batch.ok) throw batch.error;
      captured.plan(batch);
      return batch;
    };
    const first = step();
    const body = () => {
      cache.append({ layer: 0, batch: first, k, v: k });
      captured.run({ layer: 0, q, cache, out });
    };
    body();
    const workspaces = () =>
      device.memoryStats().owners.find(({ label }) => label.startsWith("workspace"))!;
    const recorded = device.capture(device.stream, body);
    const before = workspaces().bytes;
    // Another attention on the stream wants more.
    const more = { maxBatch: 64, maxQueryTokens: 256, maxColumns: 64 };
    using wide = Attention.createSync(device, { ...heads, headDim: 256, dtype, graph: more });
    const keys = noise([64, 2, 256], 3);
    const wideOut = Tensor.zeros(device, [256, 4, 256], dtype);
    wide.plan(long(64));
    wide.run({ q: noise([256, 4, 256], 4), k: keys, v: keys, out: wideOut });
    expect(workspaces().bytes).toBeGreaterThan(2 * before);
    const other = device.createStream("other");
    for (const stream of [device.stream, other, device.stream]) {
      const batch = step();
      await device.stream.done();
      recorded.replay(stream);
      plain.plan(batch);
      plain.run({ layer: 0, q, cache, out: expected });
      const [got, wanted] = [out, expected].map((each) => each.toFloat64Array());
      expect(got.some((value, i) => Math.abs(value - wanted[i]) > 0.02)).toBe(false);
    }
    recorded[Symbol.dispose]();
  },
);

test.each(targets)("a stream's workspace goes with it, on $name", async (target) => {
  await using device = await target.open(2);
  const dtype = dtypeOf(device);
  using attention = Attention.createSync(device, { ...heads, dtype });
  const noise = (dims: number[]) => Tensor.randomNormal(device, dims, dtype, { seed: 1 });
  const [q, k] = [noise([1, 4, 64]), noise([4096, 2, 64])];
  const out = Tensor.zeros(device, [1, 4, 64], dtype);
  await device.stream.done();
  const owned = () => device.memoryStats().owners.map(({ label }) => label);
  for (let i = 0; i < 3; i++) {
    const stream = device.createStream(`stream ${i}`);
    attention.plan(long(4096));
    attention.run({ q, k, v: k, out, stream });
    expect(owned()).toContain(`workspace of stream ${i}`);
    await stream.done();
    stream[Symbol.dispose]();
    expect(owned()).not.toContain(`workspace of stream ${i}`);
  }
});

/** Steps of changing shapes, by seed; all buffers that a step may grow are in use. */
async function serve(device: Device, seed: number, steps: number, made: Served): Promise<void> {
  const { cache, lists, attention, q, k, out, pages } = made;
  const random = seeded(seed);
  const sequences = Array.from({ length: 4 }, () => cache.sequence());
  for (let i = 0; i < steps; i++) {
    const counts = sequences.map(() => random.integer(1, 9));
    const total = counts.reduce((sum, count) => sum + count, 0);
    const batch = cache.reserve(sequences, counts, { padTo: total + random.integer(0, 3) });
    if (!batch.ok) throw batch.error;
    cache.append({ layer: 0, batch, k, v: k });
    if (random.chance(0.5)) cache.sharePrefixes(batch, sequences, attention.worthSharing);
    attention.plan(batch);
    attention.run({ layer: 0, q, cache, out });
    if (random.chance(0.3)) sequences[0].truncate(0);
    const indptr = Int32Array.of(0, 3, random.integer(4, 9));
    const listed = lists.step({
      queryIndptr: [0, 1, 2],
      indptr,
      indices: Array.from({ length: indptr[2] }, (_, page) => page),
      lastPageLength: [random.integer(1, 4), random.integer(1, 4)],
      writes: false,
    });
    attention.plan(listed);
    attention.run({ q, k: pages, v: pages, out });
    if (i % 16 === 15) await device.stream.done();
  }
  for (const sequence of sequences) sequence[Symbol.dispose]();
  await device.stream.done();
}

function served(device: Device) {
  const dtype = dtypeOf(device);
  const shape = { layers: 1, ...heads, dtype } as const;
  const sizes = { pageSize: 4, pageCount: 16, maxBatch: 2, maxQueryTokens: 4, maxEntries: 16 };
  return {
    cache: PagedCache.create(device, { ...shape, pages: 256, pageSize: 4 }),
    lists: PageLists.create(device, sizes),
    attention: Attention.createSync(device, { ...shape, causal: true }),
    q: Tensor.randomNormal(device, [48, 4, 64], dtype, { seed: 1 }),
    k: Tensor.randomNormal(device, [48, 2, 64], dtype, { seed: 1 }),
    out: Tensor.zeros(device, [48, 4, 64], dtype),
    pages: Tensor.randomNormal(device, [16, 4, 2, 64], dtype, { seed: 1 }),
  };
}
type Served = ReturnType<typeof served>;

test.each(targets)("steps of changing shapes end to grow memory, on $name", async (target) => {
  await using device = await target.open(2);
  const made = served(device);
  const used: number[] = [];
  for (let round = 0; round < 4; round++) {
    await serve(device, 5 + (round % 2), 20, made);
    Bun.gc(true);
    used.push(device.memoryStats().usedBytes);
  }
  expect(used.slice(2)).toEqual([used[1], used[1]]);
});
