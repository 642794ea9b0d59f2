import { expect, test } from "bun:test";
import { OptionError } from "../../src/errors.ts";
import { SequencePool } from "../../src/kv/sequence.ts";
import type { Batch } from "../../src/kv/batch.ts";
import { cpuClasses } from "../../src/attention/families/cpu.ts";
import { Tile, tileInts } from "../../src/plan/list.ts";
import { Tiles } from "../../src/plan/tiles.ts";
import { forSeeds } from "../support/random.ts";

test("each new token is kept by one of the processes, wherever its sequence stands", () => {
  forSeeds(50, (random) => {
    const [ranks, pageSize] = [random.integer(1, 5), random.integer(1, 4)];
    const pages = 40;
    const sizes = { pageSize: pageSize * ranks, maxSequences: 3, groups: [{ pages }] };
    const pools = Array.from({ length: ranks }, (_, rank) => {
      return new SequencePool({ ...sizes, keyPositions: true, part: { rank, ranks } });
    });
    const whole = new SequencePool(sizes);
    const all = [whole, ...pools].map((pool) => [0, 1, 2].map(() => pool.create()));
    /** By rank, the slots that hold a token, and its position. */
    const held = pools.map(() => new Map<number, number>());
    for (let step = 0; step < 12; step++) {
      const counts = [0, 1, 2].map(() => random.integer(1, 2 * pageSize));
      const [one, ...parts] = [whole, ...pools].map((pool, i) => pool.reserve(all[i], counts));
      if (!one.ok) return;
      const batches = parts as Batch[];
      for (let r = 0; r < 3; r++) {
        const kept = batches.map(({ kvLengths }) => kvLengths[r]);
        expect(kept.reduce((sum, count) => sum + count, 0)).toBe(one.kvLengths[r]);
        expect(Math.max(...kept) - Math.min(...kept)).toBeLessThanOrEqual(1);
        for (const [i] of pools.entries()) expect(all[i + 1][r].pages()).toEqual(all[0][r].pages());
      }
      for (let token = 0; token < one.tokenCount; token++) {
        const position = one.positions[token];
        batches.forEach(({ positions, slotMappings }, rank) => {
          const slot = slotMappings[0][token];
          expect(positions[token]).toBe(position);
          expect(slot >= 0).toBe(position % ranks === rank);
          if (slot < 0) return;
          expect(slot).toBeLessThan(pages * pageSize);
          expect(held[rank].has(slot)).toBe(false);
          held[rank].set(slot, position);
          // Key j of a sequence lies in its j-th place.
          const sequence = all[rank + 1][batches[rank].tokenRequests[token]];
          const place = Math.floor(position / ranks);
          const page = sequence.pages()[Math.floor(place / pageSize)];
          expect(slot).toBe(page * pageSize + (place % pageSize));
        });
      }
    }
  });
});

test("with a window a tile begins at the first key of the part that it sees, in a page that is held", () => {
  forSeeds(50, (random) => {
    const [ranks, pageSize] = [random.integer(2, 5), random.integer(1, 4)];
    const windowLeft = random.integer(0, 9);
    const sizes = { pageSize: pageSize * ranks, maxSequences: 1, keyPositions: true };
    const groups = [{ pages: 60, windowLeft }];
    const kernelClass = { ...cpuClasses[0], queryTile: random.integer(1, 4) };
    const tiles = new Tiles({
      classes: [kernelClass],
      group: 1,
      kvHeads: 1,
      causal: true,
      mask: "none",
      deviceLengths: false,
      batchInvariant: false,
      hookMasks: false,
      columnsMost: 1,
      visible: undefined,
    });
    const rank = random.integer(0, ranks - 1);
    const pool = new SequencePool({ ...sizes, groups, part: { rank, ranks } });
    const sequence = pool.create();
    for (let step = 0; step < 12; step++) {
      const before = sequence.length;
      const batch = pool.reserve([sequence], [random.integer(1, 3 * pageSize)]) as Batch;
      tiles.build(batch, false, windowLeft);
      const { data } = tiles.list;
      for (let at = 0; at < tiles.list.length * tileInts; at += tileInts) {
        const least = before + data[at + Tile.rowStart];
        const start = data[at + Tile.kvStart];
        const seen = Array.from({ length: batch.kvLengths[0] }, (_, key) => key * ranks + rank);
        const first = seen.findIndex((position) => position >= least - windowLeft);
        expect(start).toBe(first < 0 ? seen.length : first);
        // Of what comes behind no page was freed.
        const held = sequence.pages().slice(Math.floor(start / pageSize));
        expect(held.every((page) => page >= 0)).toBe(true);
      }
    }
  });
});

test("a step of a part is given back, and compacted where no key moves, as one of whole sequences", () => {
  const sizes = { maxSequences: 2, groups: [{ pages: 16 }] };
  const parts = [undefined, { rank: 0, ranks: 2 }, { rank: 1, ranks: 2 }];
  for (const part of parts) {
    const pool = new SequencePool({ ...sizes, pageSize: 8, keyPositions: true, part });
    const sequence = pool.create();
    const { allocator } = pool.groups[0];
    const held = () => [sequence.length, sequence.pageCount, allocator.freeCount];
    for (const [length, pages] of [
      [0, 0],
      [11, 2],
    ]) {
      pool.rollback(pool.reserve([sequence], [length + 6]) as Batch);
      expect(held()).toEqual([length, pages, 16 - pages]);
      if (length === 0) pool.reserve([sequence], [11]);
    }
    pool.reserve([sequence], [9]);
    expect(held()).toEqual([20, 3, 13]);
    sequence.compact([0, 1, 2]);
    expect(held()).toEqual([14, 2, 14]);
    pool.reserve([sequence], [4]);
    if (part === undefined) sequence.compact([0, 2]);
    else expect(() => sequence.compact([0, 2])).toThrow(OptionError);
    expect(sequence.length).toBe(part === undefined ? 16 : 18);
    sequence.compact([]);
    expect(sequence.length).toBe(14);
  }
});
