import { expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import { Device } from "../../src/device/device.ts";
import type { Address } from "../../src/ffi/symbols.ts";
import type { Sequence } from "../../src/kv/sequence.ts";
import { Tensor } from "../../src/tensor/tensor.ts";

const million = 1 << 20;
const short = 10_000;
const chunk = 4096;

/** What the last reserve did to the page table: entries to send, entries moved on the device. */
function touched(cache: PagedCache): { sent: number; moved: number } {
  const { changed, changedCount, from, to, moves, moveCount } = cache.pool.groups[0].table;
  let sent = 0;
  for (const slot of changed.subarray(0, changedCount)) sent += to[slot] - from[slot];
  let moved = 0;
  for (let i = 0; i < moveCount; i++) moved += moves[3 * i + 2];
  return { sent, moved };
}

test.each([1, 16])(
  "a million tokens beside 10,000 short sequences, page size %d: books follow the pages in use",
  async (pageSize) => {
    await using device = await Device.open("cpu", { threads: 1 });
    const pages = (million + 100 * short) / pageSize + short;
    using cache = PagedCache.create(device, {
      layers: 1,
      kvHeads: 1,
      headDim: 1,
      dtype: "f8e4m3",
      pages,
      pageSize,
      maxSequences: short + 1,
    });
    const { planeBytes } = cache.memoryStats();
    expect(planeBytes).toBe(2 * pages * pageSize);
    using k = Tensor.zeros(device, [chunk, 1, 1], "f8e4m3");
    let bytes = cache.memoryStats().hostBytes;
    let moved = 0;
    const grow = (sequences: Sequence[], counts: number[]) => {
      const batch = cache.reserve(sequences, counts);
      if (!batch.ok) throw batch.error;
      const now = touched(cache);
      const newPages = Math.ceil(batch.tokenCount / pageSize) + sequences.length;
      // A short row that outgrows its block is sent again, a long one is copied on the device.
      expect(now.sent).toBeLessThanOrEqual(newPages + 256 * sequences.length);
      expect(now.moved).toBeLessThanOrEqual(million / pageSize / 2);
      moved += now.moved;
      const after = cache.memoryStats().hostBytes;
      // At most the moved entries, the new ones, and a piece at each end.
      const most = 4 * (now.moved + newPages + 2 * 65536);
      expect(after - bytes).toBeLessThanOrEqual(most);
      bytes = after;
      cache.append({ layer: 0, batch, k, v: k });
    };
    const long = cache.sequence();
    const others: Sequence[] = [];
    for (let i = 0; i < short / 40; i++) {
      const group = Array.from({ length: 40 }, () => cache.sequence());
      grow(
        group,
        group.map(() => 100),
      );
      others.push(...group);
      if (long.length < million) grow([long], [chunk]);
    }
    while (long.length < million) grow([long], [chunk]);
    await device.stream.done();
    expect(moved).toBeLessThan((2 * million) / pageSize);
    const { tableBytes, hostBytes } = cache.memoryStats();
    expect(tableBytes + hostBytes).toBeLessThanOrEqual(64 << 20);
    const owners = device.memoryStats().owners.filter(({ label }) => label !== "KV cache");
    expect(owners.find(({ label }) => label === "page table")?.bytes).toBe(tableBytes);
    // What was moved and sent is what the device holds.
    const row = cache.tableAddress(0) + 4 * cache.pool.state.rows.starts[long.slot];
    const held = device.download(row as Address, (4 * million) / pageSize);
    expect(Bun.deepEquals(new Int32Array(held.buffer), long.pages())).toBe(true);
    expect(new Set(others.flatMap((other) => [...other.pages()])).size).toBe(
      short * Math.ceil(100 / pageSize),
    );
  },
);

test("rows that move give the outputs of rows that lie still, and captured graphs go on", async () => {
  await using device = await Device.open("cpu", { threads: 2 });
  const shape = { queryHeads: 2, kvHeads: 1, headDim: 16, dtype: "f32" } as const;
  const graph = { maxBatch: 3, maxQueryTokens: 3, maxColumns: 2000 };
  using attention = Attention.createSync(device, { ...shape, causal: true, graph });
  using eager = Attention.createSync(device, { ...shape, causal: true });
  using cache = PagedCache.create(device, { ...shape, layers: 1, pages: 4000, pageSize: 1 });
  const sequences = [cache.sequence(), cache.sequence(), cache.sequence()];
  using history = Tensor.randomNormal(device, [700, 1, 16], "f32", { seed: 1 });
  const fill = (sequence: Sequence, tokens: number) => {
    const batch = cache.reserve([sequence], [tokens]);
    if (!batch.ok) throw batch.error;
    cache.append({ layer: 0, batch, k: history, v: history });
  };
  fill(sequences[0], 700);
  sequences[0].truncate(500);
  fill(sequences[1], 13);
  fill(sequences[2], 60);
  using q = Tensor.randomNormal(device, [3, 2, 16], "f32", { seed: 2 });
  using k = Tensor.randomNormal(device, [3, 1, 16], "f32", { seed: 3 });
  using out = Tensor.zeros(device, [3, 2, 16], "f32");
  const starts = new Set<number>();
  const step = (queue: () => void) => {
    const batch = cache.reserve(sequences, [1, 1, 1]);
    if (!batch.ok) throw batch.error;
    attention.plan(batch);
    queue();
    const bits = out.toBytes();
    eager.plan(batch);
    eager.run({ q, cache, out });
    starts.add(cache.pool.state.rows.starts[sequences[0].slot]);
    return [bits, out.toBytes()];
  };
  const layer = () => {
    cache.append({ layer: 0, batch: cache.pool.lastBatch!, k, v: k });
    attention.run({ q, cache, out });
  };
  step(layer);
  using captured = device.capture(device.stream, layer);
  for (let i = 0; i < 40; i++) {
    const [replayed, expected] = step(() => captured.replay(device.stream));
    expect(replayed).toEqual(expected);
    if (i === 20) fill(sequences[0], 700);
  }
  expect(starts.size).toBeGreaterThan(1);
});
