import { OptionError } from "../errors.ts";
import { borrow } from "../ffi/foreign.ts";
import type { Device } from "./device.ts";
import { Owner } from "./owner.ts";

/** Frees blocks whose owner was forgotten; the device defers the free past all queued work. */
const forgotten = new FinalizationRegistry<{ device: Device; address: number }>(
  ({ device, address }) => device.free(address),
);

/** A block of device memory, at least 64-byte aligned. */
export class Memory extends Owner {
  constructor(
    readonly device: Device,
    readonly address: number,
    readonly byteLength: number,
    label: string,
    /** True for memory that the host can reach. */
    readonly onHost: boolean,
  ) {
    super(label);
    forgotten.register(this, { device, address }, this);
  }

  /**
   * The block as host bytes, where the host can reach it (all memory of a CPU device, pinned memory
   * of any). It borrows: do not use it after disposal, and wait for the stream before reading.
   * Errors: OptionError for a GPU's own memory.
   */
  hostBytes(): ArrayBuffer {
    this.guard();
    if (!this.onHost) {
      const fix = "copy it by device.download, or allocate pinned memory.";
      throw new OptionError("memory", this.label, "memory that the host can reach", fix);
    }
    return borrow(this.address, this.byteLength);
  }

  protected override release(): void {
    forgotten.unregister(this);
    this.device.free(this.address);
  }
}
