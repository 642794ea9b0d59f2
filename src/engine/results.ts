import type { Device } from "../device/device.ts";
import type { Memory } from "../device/memory.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Steps whose results may be under way at once: one that runs, and the one queued behind it. */
const slotsMost = 2;
const partAlignment = 64;

/** What a step brings back: copies of tensors on the host, there once `done` resolves. */
export interface Results {
  readonly done: Promise<void>;
  /** All of them one after the other, without a view of its own for each step. */
  readonly ints: Int32Array;
  /** Bytes of the i-th tensor, good until as many later steps were queued as the ring holds. */
  part(i: number): Uint8Array<ArrayBuffer>;
}

interface Slot {
  readonly memory: Memory;
  readonly host: ArrayBuffer;
  readonly ints: Int32Array;
}

/** Pinned memory in turn, into which the results of steps are copied behind them. */
export class ResultRing implements Disposable {
  readonly #device: Device;
  readonly #slots: (Slot | undefined)[] = [];
  #next = 0;

  constructor(device: Device) {
    this.#device = device;
  }

  /** Queues copies of dense tensors to the host. */
  queue(tensors: readonly Tensor[]): Results {
    const { stream } = this.#device;
    const sizes = tensors.map(({ elements, dtype }) => elements * dtypeBytes(dtype));
    const places: number[] = [];
    let bytes = 0;
    for (const size of sizes) {
      places.push(bytes);
      bytes += Math.ceil(size / partAlignment) * partAlignment;
    }
    const { memory, host, ints } = this.#take(bytes);
    tensors.forEach(({ address }, i) => stream.copy(memory.address + places[i], address, sizes[i]));
    const done = stream.done();
    // Whoever waits gets the failure; until then it is nobody's.
    done.catch(() => {});
    return { done, ints, part: (i) => new Uint8Array(host, places[i], sizes[i]) };
  }

  [Symbol.dispose](): void {
    for (const slot of this.#slots) slot?.memory[Symbol.dispose]();
  }

  #take(bytes: number): Slot {
    const at = this.#next;
    this.#next = (at + 1) % slotsMost;
    const slot = this.#slots[at];
    if (slot !== undefined && slot.memory.byteLength >= bytes) return slot;
    slot?.memory[Symbol.dispose]();
    const memory = this.#device.alloc(2 * bytes, "step results", true);
    const host = memory.hostBytes();
    return (this.#slots[at] = { memory, host, ints: new Int32Array(host) });
  }
}
