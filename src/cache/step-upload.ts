import type { Device } from "../device/device.ts";
import { GrowingBuffer, PinnedRing } from "../device/ring.ts";
import type { Stream } from "../device/stream.ts";
import { PlanError } from "../errors.ts";
import type { Batch } from "../kv/batch.ts";
import type { SequencePool } from "../kv/sequence.ts";
import { type CopyTable, queueTableUpdates } from "./page.ts";

/** A page group on the device: its table and the planes that its moves touch. */
interface DeviceGroup {
  readonly table: GrowingBuffer;
  version: number;
  readonly copies: CopyTable;
}

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
  /** Where the slot mappings of each group begin in the step, then the token requests; in ints. */
  readonly #offsets: number[] = [];

  /** @param copies by page group, the planes in which its pages are copied */
  constructor(device: Device, pool: SequencePool, copies: readonly CopyTable[]) {
    this.#device = device;
    this.#pool = pool;
    this.#ring = new PinnedRing(device, "cache upload ring");
    this.#step = new GrowingBuffer(device, "cache step");
    this.#groups = copies.map((each) => {
      return { table: new GrowingBuffer(device, "page table"), version: 0, copies: each };
    });
  }

  /** Address of a group's page table, int32 [maxSequences, stride]. */
  tableAddress(group: number): number {
    return this.#groups[group].table.address;
  }

  /** Address of a group's slot mappings of the step, int32 [paddedTokens]. */
  slotMapping(group: number): number {
    return this.#step.address + 4 * this.#offsets[group];
  }

  /** Address of the request of each token of the step, int32 [paddedTokens]. */
  get tokenRequests(): number {
    return this.#step.address + 4 * this.#offsets[this.#groups.length];
  }

  /** Sends a batch of the pool, unless that was done. Returns whether it queued anything. */
  send(batch: Batch, stream: Stream): boolean {
    if (batch.generation === this.#generation && !this.#pending()) return false;
    refuseCapture(this.#device, "the first use of a step");
    const ints = this.#write(batch);
    this.#step.ensure(ints * 4);
    this.#ring.upload(stream, this.#step.address, ints);
    this.#generation = batch.generation;
    let offset = this.#offsets[this.#groups.length] + batch.paddedTokens;
    for (let g = 0; g < this.#groups.length; g++) offset = this.#queueGroup(g, offset, stream);
    return true;
  }

  /**
   * For a capture of a step of so many padded tokens: what throws a PlanError for a batch that the
   * captured launches cannot serve, of another size or in buffers that grew.
   */
  captured(paddedTokens: number): (batch: Batch) => void {
    const { version } = this.#step;
    const strides = this.#pool.groups.map(({ table }) => table.stride);
    return (batch) => {
      if (batch.paddedTokens !== paddedTokens) {
        throw new PlanError(
          `the step holds ${batch.paddedTokens} padded tokens, the capture ${paddedTokens}. ` +
            `Fix: reserve with { padTo: ${paddedTokens} }.`,
        );
      }
      const grew = this.#pool.groups.some(({ table }, g) => table.stride !== strides[g]);
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

  #pending(): boolean {
    const { groups } = this.#pool;
    for (let g = 0; g < groups.length; g++) {
      const { table, moveCount } = groups[g];
      if (table.updateCount > 0 || moveCount > 0) return true;
      if (table.version !== this.#groups[g].version) return true;
    }
    return false;
  }

  #ints(batch: Batch): number {
    let ints = batch.paddedTokens * (this.#groups.length + 1);
    for (let g = 0; g < this.#groups.length; g++) ints += this.#groupInts(g);
    return ints;
  }

  /**
   * Lays out [slot mappings by group | token requests | per group: updates, moves]; returns ints.
   */
  #write(batch: Batch): number {
    const { groups } = this.#pool;
    const tokens = batch.paddedTokens;
    const ints = this.#ints(batch);
    const { i32 } = this.#ring.take(ints);
    let offset = 0;
    for (let g = 0; g <= groups.length; g++) {
      const source = g < groups.length ? batch.slotMappings[g] : batch.tokenRequests;
      copyInts(i32, offset, source, tokens);
      this.#offsets[g] = offset;
      offset += tokens;
    }
    for (let g = 0; g < groups.length; g++) {
      const { table, pendingMoves, moveCount } = groups[g];
      const updates = this.#isWhole(g) ? table.data : table.updates;
      const updateInts = this.#groupInts(g) - 3 * moveCount;
      copyInts(i32, offset, updates, updateInts);
      offset += updateInts;
      copyInts(i32, offset, pendingMoves, 3 * moveCount);
      offset += 3 * moveCount;
    }
    return ints;
  }

  /** True when the table moved or grew: then all of it is sent, not its differences. */
  #isWhole(g: number): boolean {
    return this.#pool.groups[g].table.version !== this.#groups[g].version;
  }

  #groupInts(g: number): number {
    const { table, moveCount } = this.#pool.groups[g];
    return (this.#isWhole(g) ? table.data.length : 2 * table.updateCount) + 3 * moveCount;
  }

  /** Queues a group's updates and copies, which begin at an offset in ints; returns their end. */
  #queueGroup(g: number, offset: number, stream: Stream): number {
    const { table, moveCount } = this.#pool.groups[g];
    const target = this.#groups[g];
    const address = this.#step.address + 4 * offset;
    const moves = offset + this.#groupInts(g) - 3 * moveCount;
    if (this.#isWhole(g)) {
      target.table.ensure(table.data.length * 4);
      stream.copy(target.table.address, address, table.data.length * 4);
      target.version = table.version;
    } else if (table.updateCount > 0) {
      queueTableUpdates(this.#device, stream, target.table.address, address, table.updateCount);
    }
    const { pageSize } = this.#pool;
    target.copies.queue(stream, this.#step.address + 4 * moves, moveCount, pageSize);
    table.clearUpdates();
    this.#pool.groups[g].clearMoves();
    return moves + 3 * moveCount;
  }
}

/**
 * Long stretches are worth the view that `set` needs; short ones, as in decode, make no garbage.
 */
function copyInts(target: Int32Array, at: number, source: Int32Array, count: number): void {
  if (count > 1024) target.set(source.subarray(0, count), at);
  else for (let i = 0; i < count; i++) target[at + i] = source[i];
}
