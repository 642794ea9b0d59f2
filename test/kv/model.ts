import { expect } from "bun:test";
import type { Batch } from "../../src/kv/batch.ts";
import type { PageTable } from "../../src/kv/page-table.ts";
import type { Sequence, SequencePool } from "../../src/kv/sequence.ts";

/** A page table as a device would keep it: from moved rows and changed columns. */
export class DeviceTable {
  /** By entry. */
  readonly data: number[] = [];

  constructor(readonly table: PageTable) {}

  /** Takes the changes; returns how many entries came from the host. */
  sync(): number {
    const { table } = this;
    const { moves, moveCount, changed, changedCount } = table;
    for (let i = 0; i < moveCount; i++) {
      const [before, start, count] = moves.subarray(3 * i, 3 * i + 3);
      for (let entry = 0; entry < count; entry++)
        this.data[start + entry] = this.data[before + entry];
    }
    expect(new Set(changed.subarray(0, changedCount)).size).toBe(changedCount);
    let sent = 0;
    for (const slot of changed.subarray(0, changedCount)) {
      for (let column = table.from[slot]; column < table.to[slot]; column++, sent++)
        this.data[table.rows.starts[slot] + column] = table.get(slot, column);
    }
    table.clearUpdates();
    return sent;
  }

  /** A slot's pages, -1 where the host says that nothing is held. */
  pages(slot: number, columns: number): number[] {
    return Array.from({ length: columns }, (_, column) => {
      const page = this.data[this.table.rows.starts[slot] + column];
      return this.table.get(slot, column) < 0 ? -1 : page;
    });
  }
}

/**
 * What the pages hold, naively: each token of a sequence has a value of its own, appended where
 * the slot mapping says and moved as the pool asks. Wrong copies, mappings or shares show as wrong
 * values.
 */
export class NaiveCache {
  /** By group, by token slot. */
  readonly storage: Int32Array[];
  readonly devices: DeviceTable[];
  /** The values each live sequence should hold. */
  readonly values = new Map<Sequence, number[]>();
  #nextValue = 1;

  constructor(readonly pool: SequencePool) {
    this.storage = pool.groups.map(
      (group) => new Int32Array(group.allocator.pageCount * pool.pageSize),
    );
    this.devices = pool.groups.map((group) => new DeviceTable(group.table));
  }

  get live(): Sequence[] {
    return [...this.values.keys()];
  }

  /** Runs the waiting copies, in order. */
  copy(): void {
    this.pool.groups.forEach((group, g) => {
      for (let i = 0; i < group.moveCount; i++) {
        const [source, target, count] = group.pendingMoves.subarray(3 * i, 3 * i + 3);
        const { pageSize } = this.pool;
        expect(count).toBeGreaterThan(0);
        expect((source % pageSize) + count).toBeLessThanOrEqual(pageSize);
        expect((target % pageSize) + count).toBeLessThanOrEqual(pageSize);
        expect(Math.abs(source - target)).toBeGreaterThanOrEqual(count);
        this.storage[g].copyWithin(target, source, source + count);
      }
      group.clearMoves();
    });
  }

  /** Does what follows a reserve: copies, table upload, append of new values. */
  append(batch: Batch, sequences: readonly Sequence[]): void {
    this.copy();
    const { pageSize } = this.pool;
    for (let token = 0; token < batch.tokenCount; token++) {
      const value = this.#nextValue++;
      this.values.get(sequences[batch.tokenRequests[token]])!.push(value);
      this.pool.groups.forEach((group, g) => {
        const target = batch.slotMappings[g][token];
        expect(group.allocator.referenceCount(Math.floor(target / pageSize))).toBe(1);
        this.storage[g][target] = value;
      });
    }
  }

  /** Writes the first rows of a step that then fails: no sequence is to hold them. */
  scribble(batch: Batch, rows: number): void {
    this.copy();
    for (let token = 0; token < rows; token++) {
      this.storage.forEach((tokens, g) => (tokens[batch.slotMappings[g][token]] = -1));
    }
  }

  /**
   * Compares everything that can be seen; `held` adds users of pages beyond the sequences,
   * `contents` says whether to compare what the pages hold too.
   */
  check(held?: (group: number, page: number) => number, contents = true): void {
    const { pool } = this;
    expect(pool.sequenceCount).toBe(this.values.size);
    const ready = contents && pool.groups.every((group) => group.moveCount === 0);
    pool.groups.forEach((group, g) => {
      const users = new Int32Array(group.allocator.pageCount);
      if (held !== undefined) users.forEach((_, page) => (users[page] = held(g, page)));
      this.devices[g].sync();
      for (const [sequence, values] of this.values) {
        expect(sequence.length).toBe(values.length);
        const pages = sequence.pages(g);
        expect(pages.length).toBe(Math.ceil(values.length / pool.pageSize));
        expect(this.devices[g].pages(sequence.slot, pages.length)).toEqual([...pages]);
        for (const page of pages) if (page >= 0) users[page]++;
        if (ready) this.#checkValues(g, sequence, values);
      }
      let free = 0;
      for (let page = 0; page < users.length; page++) {
        expect(group.allocator.referenceCount(page)).toBe(users[page]);
        if (users[page] === 0) free++;
      }
      expect(group.allocator.freeCount).toBe(free);
    });
  }

  #checkValues(g: number, sequence: Sequence, values: readonly number[]): void {
    const { pool } = this;
    const { windowLeft } = pool.groups[g];
    const pages = sequence.pages(g);
    const start = values.length - pool.state.lastTokens[sequence.slot];
    const seen = windowLeft < 0 ? 0 : Math.max(0, start - windowLeft);
    for (let position = 0; position < values.length; position++) {
      const page = pages[Math.floor(position / pool.pageSize)];
      if (page < 0) {
        if (position >= seen) throw new Error(`position ${position} of group ${g} was dropped`);
        continue;
      }
      const found = this.storage[g][page * pool.pageSize + (position % pool.pageSize)];
      if (found !== values[position])
        throw new Error(
          `sequence ${sequence.id}, group ${g}, position ${position} holds ${found}, ` +
            `not ${values[position]}`,
        );
    }
  }
}

/** Pages a step is short of in a group, by a naive walk over what reserve has to do; 0: it fits. */
export function pagesMissing(
  pool: SequencePool,
  g: number,
  sequences: readonly Sequence[],
  newTokens: ArrayLike<number>,
): number {
  const { pageSize } = pool;
  const { allocator, windowLeft } = pool.groups[g];
  const users = Array.from({ length: allocator.pageCount }, (_, p) => allocator.referenceCount(p));
  let free = allocator.freeCount;
  const growing = sequences.filter((_, i) => newTokens[i] > 0);
  for (const sequence of growing) {
    if (windowLeft < 0) continue;
    sequence.pages(g).forEach((page, column) => {
      const passed = (column + 1) * pageSize <= sequence.length - windowLeft;
      if (page >= 0 && passed && --users[page] === 0) free++;
    });
  }
  for (let i = 0; i < sequences.length; i++) {
    const { length } = sequences[i];
    if (newTokens[i] === 0) continue;
    if (length % pageSize !== 0) {
      const page = sequences[i].pages(g)[Math.floor(length / pageSize)];
      if (users[page] > 1) {
        users[page]--;
        free--;
      }
    }
    free -= Math.ceil((length + newTokens[i]) / pageSize) - Math.ceil(length / pageSize);
  }
  return Math.max(0, -free);
}

/** All that a refused call must leave alone, as text to compare. */
export function snapshot(pool: SequencePool, batch?: Batch): string {
  const { state } = pool;
  return JSON.stringify({
    live: pool.sequenceCount,
    lengths: [...state.lengths],
    pageCounts: [...state.pageCounts],
    lastTokens: [...state.lastTokens],
    versions: [...state.versions],
    generation: batch?.generation,
    kvLengths: batch && [...batch.kvLengths],
    groups: pool.groups.map(({ table, ...group }) => ({
      rows: Array.from(state.lengths, (_, slot) => [...table.copy(slot, state.pageCounts[slot])]),
      changed: Array.from(table.changed.subarray(0, table.changedCount), (slot) => [
        slot,
        table.from[slot],
        table.to[slot],
      ]),
      rowMoves: [...table.moves.subarray(0, 3 * table.moveCount)],
      moves: [...group.pendingMoves.subarray(0, 3 * group.moveCount)],
      first: [...group.firstColumns],
      leaving: group.leaving.some((count) => count !== 0),
      users: Array.from({ length: group.allocator.pageCount }, (_, page) =>
        group.allocator.referenceCount(page),
      ),
    })),
  });
}
