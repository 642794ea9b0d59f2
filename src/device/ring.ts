import type { Device } from "./device.ts";
import type { Memory } from "./memory.ts";
import { Owner } from "./owner.ts";
import type { Event, Stream } from "./stream.ts";

/** One pinned block of a ring: write `i32`, queue the copy, then release it on the same stream. */
export interface RingSlot {
  i32: Int32Array;
  address: number;
}

interface Block extends RingSlot {
  memory: Memory;
  event: Event;
}

/** Slots of a ring: the host may run this many uploads ahead of the device. */
const slotCount = 4;

/**
 * Pinned host blocks in turn, so that step n + 1 can be written while step n still uploads. A block
 * is taken again only when the event behind its last copy was reached.
 */
export class PinnedRing extends Owner {
  readonly #device: Device;
  readonly #blocks: (Block | undefined)[] = new Array(slotCount);
  #next = 0;
  #waiter: Stream | undefined;

  constructor(device: Device, label: string) {
    super(label);
    this.#device = device;
  }

  /** The next block of at least `ints` int32; waits when the device is a whole ring behind. */
  take(ints: number): RingSlot {
    this.guard();
    const block = this.#blocks[this.#next];
    if (block === undefined) return this.#grow(ints, this.#device.createEvent(this.label));
    if (!block.event.reached) {
      // A stream of its own waits for this event alone, not for what was queued behind it.
      this.#waiter ??= this.#device.createStream(this.label);
      this.#waiter.waitFor(block.event);
      this.#waiter.wait();
    }
    if (block.i32.length >= ints) return block;
    const grown = this.#grow(ints, block.event);
    block.memory[Symbol.dispose]();
    return grown;
  }

  /** The next block's ints where they are free at once, to write an upload that needs no copy. */
  get room(): Int32Array | undefined {
    const block = this.#blocks[this.#next];
    return block?.event.reached ? block.i32 : undefined;
  }

  /** Whether these are the ints of the next block. */
  isNext(ints: Int32Array): boolean {
    return this.#blocks[this.#next]?.i32 === ints;
  }

  /** Queues the copy of the block's first `ints` to `target` and frees the block behind it. */
  upload(stream: Stream, target: number, ints: number): void {
    const block = this.#blocks[this.#next]!;
    stream.copy(target, block.address, ints * 4);
    block.event.record(stream);
    this.#next = (this.#next + 1) % slotCount;
  }

  #grow(ints: number, event: Event): Block {
    const capacity = 2 ** Math.ceil(Math.log2(Math.max(ints, 1024)));
    const memory = this.#device.alloc(capacity * 4, this.label, true);
    const i32 = new Int32Array(memory.hostBytes());
    return (this.#blocks[this.#next] = { i32, address: memory.address, memory, event });
  }

  protected override release(): void {
    for (const block of this.#blocks) {
      block?.memory[Symbol.dispose]();
      block?.event[Symbol.dispose]();
    }
    this.#waiter?.[Symbol.dispose]();
  }
}

/** Device memory that grows by doubling; `version` shows captured graphs that it moved. */
export class GrowingBuffer extends Owner {
  #memory: Memory | undefined;
  #isLent = false;
  version = 0;

  constructor(
    readonly device: Device,
    label: string,
  ) {
    super(label);
  }

  /** Address of the buffer, 0 before the first `ensure`. */
  get address(): number {
    return this.#memory?.address ?? 0;
  }

  get byteLength(): number {
    return this.#memory?.byteLength ?? 0;
  }

  /** The memory as it is now: it stays after growth and disposal as long as somebody holds it. */
  lend(): Memory {
    this.guard();
    this.#isLent = true;
    return this.#memory!;
  }

  /** True when `bytes` need no growth. */
  fits(bytes: number): boolean {
    return this.#memory !== undefined && this.#memory.byteLength >= bytes;
  }

  /** Makes room for `bytes`, `exact` or to the next doubling; contents do not survive growth. */
  ensure(bytes: number, exact = false): void {
    if (this.fits(bytes)) return;
    this.guard();
    const capacity = exact ? bytes : 2 ** Math.ceil(Math.log2(Math.max(bytes, 4096)));
    const grown = this.device.alloc(capacity, this.label);
    this.release();
    this.#memory = grown;
    this.version++;
  }

  /** Makes room for `bytes`; contents survive, copied on `stream`. */
  keep(bytes: number, stream: Stream): void {
    if (this.fits(bytes)) return;
    const before = this.#memory;
    this.#memory = undefined;
    try {
      this.ensure(bytes);
    } catch (error) {
      this.#memory = before;
      throw error;
    }
    if (before === undefined) return;
    stream.copy(this.address, before.address, before.byteLength);
    before[Symbol.dispose]();
  }

  protected override release(): void {
    // What was lent is freed once it is forgotten.
    if (!this.#isLent) this.#memory?.[Symbol.dispose]();
    this.#memory = undefined;
    this.#isLent = false;
  }
}
