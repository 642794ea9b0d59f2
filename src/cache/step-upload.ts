import type { Device } from "../device/device.ts";
import { GrowingBuffer, PinnedRing } from "../device/ring.ts";
import type { Stream } from "../device/stream.ts";
import { PlanError } from "../errors.ts";
import type { Batch } from "../kv/batch.ts";
import type { PageTable } from "../kv/page-table.ts";
import type { SequencePool } from "../kv/sequence.ts";
import { type CopyTable, queueTableUpdates } from "./page.ts";

/** A page group on the device: its table and the planes that its moves touch. */
interface DeviceGroup {
  readonly table: GrowingBuffer;
  readonly copies: CopyTable;
}

/** A stretch of more page-table entries than this is a copy of its own. */
const stretchLeast = 256;

/** Throws a PlanError while a graph is captured. */
export function refuseCapture(device: Device, what: string): void {
  if (!device.capturing) return;
  throw new PlanError(
    `${what} cannot be captured. Fix: reserve, plan and run the step once before the capture.`,
  );
}

/**
 * What a cache's steps need on the device: page tables, of which only differences are sent, page
 * copies, and where each new token goes. One upload per step, through pinned memory.
 */
export class StepUpload implements Disposable {
  readonly #device: Device;
  readonly #pool: SequencePool;
  readonly #groups: DeviceGroup[];
  readonly #ring: PinnedRing;
  readonly #step: GrowingBuffer;
  /** Generation of the batch that was sent last. */
  #generation = -1;
  /** Where the slot mappings of each group begin, token requests and positions; in ints. */
  readonly #offsets: number[] = [];

  /** @param copies by page group, the planes in which its pages are copied */
  constructor(device: Device, pool: SequencePool, copies: readonly CopyTable[]) {
    this.#device = device;
    this.#pool = pool;
    this.#ring = new PinnedRing(device, "cache upload ring");
    this.#step = new GrowingBuffer(device, "cache step");
    this.#groups = copies.map((each) => {
      return { table: new GrowingBuffer(device, "page table"), copies: each };
    });
    // Rows are blocks of at least 16 and at most twice their pages: without prefixes that many
    // share, tables of this size never move, which captured graphs rely on.
    try {
      for (let g = 0; g < this.#groups.length; g++) {
        const { pageCount } = pool.groups[g].allocator;
        const entries = 2 * pageCount + 16 * Math.min(pool.maxSequences, pageCount);
        this.#groups[g].table.ensure(4 * entries, true);
      }
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** Address of a group's page table, int32 by entry. */
  tableAddress(group: number): number {
    return this.#groups[group].table.address;
  }

  /** Bytes of the page tables on the device. */
  get tableBytes(): number {
    return this.#groups.reduce((sum, { table }) => sum + table.byteLength, 0);
  }

  /** Address of a group's slot mappings of the step, int32 [paddedTokens]. */
  slotMapping(group: number): number {
    return this.#step.address + 4 * this.#offsets[group];
  }

  /** Address of the request of each token of the step, int32 [paddedTokens]. */
  get tokenRequests(): number {
    return this.#step.address + 4 * this.#offsets[this.#groups.length];
  }

  /** Address of the position of each token of the step, int32 [paddedTokens], if kept. */
  get positions(): number {
    return this.#step.address + 4 * this.#offsets[this.#groups.length + 1];
  }

  /** Sends a batch of the pool, unless that was done. Returns whether it queued anything. */
  send(batch: Batch, stream: Stream): boolean {
    if (batch.generation === this.#generation && !this.#pending()) return false;
    refuseCapture(this.#device, "the first use of a step");
    const ints = this.#write(batch);
    this.#step.ensure(ints * 4);
    this.#ring.upload(stream, this.#step.address, ints);
    this.#generation = batch.generation;
    let offset = this.#lists * batch.paddedTokens;
    for (let g = 0; g < this.#groups.length; g++) offset = this.#queueGroup(g, offset, stream);
    return true;
  }

  /**
   * For a capture of a step of so many padded tokens: what throws a PlanError for a batch that the
   * captured launches cannot serve, of another size or in buffers that grew.
   */
  captured(paddedTokens: number): (batch: Batch) => void {
    const { version } = this.#step;
    const versions = this.#groups.map(({ table }) => table.version);
    const lists = this.#lists;
    return (batch) => {
      if (batch.paddedTokens !== paddedTokens) {
        throw new PlanError(
          `the step holds ${batch.paddedTokens} padded tokens, the capture ${paddedTokens}. ` +
            `Fix: reserve with { padTo: ${paddedTokens} }.`,
        );
      }
      if (this.#lists !== lists) {
        throw new PlanError(
          "a step was given positions since the capture, which the captured append does not " +
            "write. Fix: create the cache with { keyPositions: true }, and capture again.",
        );
      }
      const { end } = this.#pool.state.rows;
      const grew = this.#groups.some(
        ({ table }, g) => table.version !== versions[g] || !table.fits(4 * end),
      );
      const full = !this.#step.fits(this.#ints(batch) * 4);
      if (grew || full || this.#step.version !== version) {
        throw new PlanError(
          "the cache's step buffer or page table grew since the capture. " +
            "Fix: capture again after a step of the largest size.",
        );
      }
    };
  }

  [Symbol.dispose](): void {
    for (const { table } of this.#groups) table[Symbol.dispose]();
    this.#ring[Symbol.dispose]();
    this.#step[Symbol.dispose]();
  }

  /** Ints for each token of a step. */
  get #lists(): number {
    return this.#groups.length + (this.#pool.state.places.kept ? 2 : 1);
  }

  #pending(): boolean {
    const { groups } = this.#pool;
    for (let g = 0; g < groups.length; g++) {
      const { table, moveCount } = groups[g];
      if (table.changedCount > 0 || table.moveCount > 0 || moveCount > 0) return true;
    }
    return false;
  }

  #ints(batch: Batch): number {
    let ints = batch.paddedTokens * this.#lists;
    for (let g = 0; g < this.#groups.length; g++) ints += this.#groupInts(g);
    return ints;
  }

  /**
   * Lays out [slot mappings by group | token requests | positions, if kept | per group: page-table
   * entries, moves]; returns ints.
   */
  #write(batch: Batch): number {
    const { groups } = this.#pool;
    const tokens = batch.paddedTokens;
    const ints = this.#ints(batch);
    const { i32 } = this.#ring.take(ints);
    let offset = 0;
    const lists = this.#lists;
    for (let g = 0; g < lists; g++) {
      const { slotMappings, tokenRequests, positions } = batch;
      const rest = g === groups.length ? tokenRequests : positions;
      const source = g < groups.length ? slotMappings[g] : rest;
      copyInts(i32, offset, source, tokens);
      this.#offsets[g] = offset;
      offset += tokens;
    }
    for (let g = 0; g < groups.length; g++) {
      const { table, pendingMoves, moveCount } = groups[g];
      offset = writeEntries(table, i32, offset);
      copyInts(i32, offset, pendingMoves, 3 * moveCount);
      offset += 3 * moveCount;
    }
    return ints;
  }

  #groupInts(g: number): number {
    const { table, moveCount } = this.#pool.groups[g];
    return 2 * entriesOf(table, false) + entriesOf(table, true) + 3 * moveCount;
  }

  /** Queues a group's updates and copies, which begin at an offset in ints; returns their end. */
  #queueGroup(g: number, offset: number, stream: Stream): number {
    const { table, moveCount } = this.#pool.groups[g];
    const { copies, table: target } = this.#groups[g];
    target.keep(4 * table.rows.end, stream);
    for (let i = 0; i < 3 * table.moveCount; i += 3) {
      const from = target.address + 4 * table.moves[i];
      const to = target.address + 4 * table.moves[i + 1];
      stream.copy(to, from, 4 * table.moves[i + 2]);
    }
    const pairs = entriesOf(table, false);
    if (pairs > 0) {
      const address = this.#step.address + 4 * offset;
      queueTableUpdates(this.#device, stream, target.address, address, pairs);
    }
    let at = offset + 2 * pairs;
    for (let i = 0; i < table.changedCount; i++) {
      const slot = table.changed[i];
      const count = table.to[slot] - table.from[slot];
      if (count < stretchLeast) continue;
      const first = table.rows.starts[slot] + table.from[slot];
      stream.copy(target.address + 4 * first, this.#step.address + 4 * at, 4 * count);
      at += count;
    }
    copies.queue(stream, this.#step.address + 4 * at, moveCount, this.#pool.pageSize);
    table.clearUpdates();
    this.#pool.groups[g].clearMoves();
    return at + 3 * moveCount;
  }
}

/** Entries that are sent in stretches, or those that are sent one by one. */
function entriesOf({ changed, changedCount, from, to }: PageTable, inStretches: boolean): number {
  let entries = 0;
  for (let i = 0; i < changedCount; i++) {
    const count = to[changed[i]] - from[changed[i]];
    if (count > 0 && count >= stretchLeast === inStretches) entries += count;
  }
  return entries;
}

/** Writes what the device lacks: pairs (entry, page), then stretches of pages; returns the end. */
function writeEntries(table: PageTable, into: Int32Array, offset: number): number {
  const { changed, changedCount, from, to, rows } = table;
  let at = offset;
  for (let i = 0; i < changedCount; i++) {
    const slot = changed[i];
    if (to[slot] - from[slot] >= stretchLeast) continue;
    for (let column = from[slot]; column < to[slot]; column++) {
      const entry = rows.starts[slot] + column;
      into[at++] = entry;
      into[at++] = table.at(entry);
    }
  }
  for (let i = 0; i < changedCount; i++) {
    const slot = changed[i];
    const count = to[slot] - from[slot];
    if (count < stretchLeast) continue;
    table.read(rows.starts[slot] + from[slot], count, into, at);
    at += count;
  }
  return at;
}

/**
 * Long stretches are worth the view that `set` needs; short ones, as in decode, make no garbage.
 */
function copyInts(target: Int32Array, at: number, source: Int32Array, count: number): void {
  if (count > 1024) target.set(source.subarray(0, count), at);
  else for (let i = 0; i < count; i++) target[at + i] = source[i];
}
