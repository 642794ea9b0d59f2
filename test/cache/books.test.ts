import { expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import { Device } from "../../src/device/device.ts";
import type { Address } from "../../src/ffi/symbols.ts";
import type { Sequence } from "../../src/kv/sequence.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { deviceTargets } from "../support/targets.ts";

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

test.each(await deviceTargets())(
  "rows move and captured graphs go on, on $name",
  async (target) => {
    await using device = await target.open(2);
    const shape = { queryHeads: 2, kvHeads: 1, headDim: 64, dtype: "bf16" } as const;
    const graph = { maxBatch: 3, maxQueryTokens: 3, maxColumns: 2000 };
    using attention = await Attention.create(device, { ...shape, causal: true, graph });
    const options = { ...shape, layers: 1, pages: 4000, pageSize: 1 };
    using cache = PagedCache.create(device, options);
    using still = PagedCache.create(device, options);
    const caches = [cache, still];
    const sequences = caches.map((each) => [each.sequence(), each.sequence(), each.sequence()]);
    using history = Tensor.randomNormal(device, [1400, 1, 64], "bf16", { seed: 1 });
    const fill = (c: number, i: number, tokens: number) => {
      const batch = caches[c].reserve([sequences[c][i]], [tokens]);
      if (!batch.ok) throw batch.error;
      caches[c].append({ layer: 0, batch, k: history, v: history });
    };
    // In the second cache rows have all their room from the start.
    for (const i of [0, 1, 2]) {
      fill(1, i, 1400 >> i);
      sequences[1][i].truncate(0);
    }
    fill(0, 0, 700);
    sequences[0][0].truncate(0);
    for (const c of [0, 1]) [500, 13, 60].forEach((tokens, i) => fill(c, i, tokens));
    using q = Tensor.randomNormal(device, [3, 2, 64], "bf16", { seed: 2 });
    using k = Tensor.randomNormal(device, [3, 1, 64], "bf16", { seed: 3 });
    using out = Tensor.zeros(device, [3, 2, 64], "bf16");
    const starts = [0, 1].map(() => new Set<string>());
    const layer = (c: number) => {
      caches[c].append({ layer: 0, batch: caches[c].pool.lastBatch!, k, v: k });
      attention.run({ q, cache: caches[c], out });
    };
    const step = (c: number, queue: () => void) => {
      const batch = caches[c].reserve(sequences[c], [1, 1, 1]);
      if (!batch.ok) throw batch.error;
      attention.plan(batch);
      queue();
      starts[c].add(caches[c].pool.state.rows.starts.subarray(0, 3).join());
      return out.toBytes();
    };
    for (const c of [1, 0]) step(c, () => layer(c));
    using captured = device.capture(device.stream, () => layer(0));
    for (let i = 0; i < 40; i++) {
      const expected = step(1, () => layer(1));
      expect(step(0, () => captured.replay(device.stream))).toEqual(expected);
      if (i === 20) for (const c of [0, 1]) fill(c, 0, 700);
    }
    expect(starts.map(({ size }) => size)).toEqual([5, 1]);
  },
);
