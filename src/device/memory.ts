import { OptionError, OutOfMemoryError } from "../errors.ts";
import { borrow, out, valueOf } from "../ffi/foreign.ts";
import { native } from "../ffi/library.ts";
import { check, failureOf, Status } from "../ffi/status.ts";
import type { Address } from "../ffi/symbols.ts";
import { requireInteger, requireText } from "../require.ts";
import type { Context } from "./context.ts";
import { Owner } from "./owner.ts";
import type { Stream } from "./stream.ts";

/** Bytes of a device's memory and who holds the most. */
export interface MemoryStats {
  usedBytes: number;
  spareBytes: number;
  limitBytes: number;
  owners: { label: string; bytes: number; blocks: number }[];
}

/** Bytes of device memory that one copy to or from the host stages at most. */
const stagingBytes = 64 << 20;

const blockOut = out<Address>();
const statsOut = new Float64Array(new ArrayBuffer(24));

/** Frees blocks whose owner was forgotten; the pool defers the free past all queued work. */
const forgotten = new FinalizationRegistry<{ pool: MemoryPool; address: Address }>(
  ({ pool, address }) => pool.free(address),
);

/** Whose bytes a host view has: they are not forgotten while someone reads them. */
const borrowed = new WeakMap<ArrayBuffer, Memory>();

/** A block of device memory, at least 64-byte aligned. */
export class Memory extends Owner {
  readonly #pool: MemoryPool;

  /** @internal */
  constructor(
    pool: MemoryPool,
    readonly address: Address,
    readonly byteLength: number,
    label: string,
    /** True for memory that the host can reach. */
    readonly onHost: boolean,
  ) {
    super(label);
    this.#pool = pool;
    forgotten.register(this, { pool, address }, this);
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
    const bytes = borrow(this.address, this.byteLength);
    borrowed.set(bytes, this);
    return bytes;
  }

  /** @internal */
  override toString(): string {
    return `${super.toString()}: ${this.byteLength} bytes`;
  }

  protected override release(): void {
    forgotten.unregister(this);
    this.#pool.free(this.address);
  }
}

/** A device's memory: blocks under labels, what they sum up to, and copies from and to the host. */
export class MemoryPool {
  readonly #device: Context;
  /** Where copies from and to the host are queued. */
  readonly #stream: Stream;
  readonly #blocks = new Map<Address, { label: string; bytes: number }>();
  /** Blocks freed since {@link hold}. */
  #held: Address[] | undefined;

  constructor(device: Context, stream: Stream) {
    this.#device = device;
    this.#stream = stream;
  }

  /** As Device.alloc. Errors: OutOfMemoryError, DeviceError when the pool is frozen. */
  alloc(bytes: number, label: string, pinned = false): Memory {
    this.#device.guard();
    requireInteger("bytes", bytes, 0);
    requireText("label", label);
    const { handle, kind } = this.#device;
    const size = Math.max(bytes, 1);
    const status = native().fb_memory_alloc(handle, size, pinned ? 1 : 0, blockOut);
    if (status === Status.outOfMemory) throw this.#outOfMemory(status, label);
    check(status, label);
    const address = valueOf(blockOut);
    this.#blocks.set(address, { label, bytes });
    return new Memory(this, address, bytes, label, pinned || kind === "cpu");
  }

  /** Gives a block back once all that is queued now is done. */
  free(address: Address): void {
    if (this.#device.disposed || !this.#blocks.has(address)) return;
    if (this.#held !== undefined) {
      this.#held.push(address);
      return;
    }
    this.#blocks.delete(address);
    native().fb_memory_free(this.#device.handle, address);
  }

  /** From here on blocks that are freed stay: a graph that is captured may use them. */
  hold(): void {
    this.#held = [];
  }

  /**
   * Ends {@link hold}. Returns what was freed since: to be freed by the caller, once it needs them
   * no longer.
   */
  takeHeld(): Address[] {
    const held = this.#held ?? [];
    this.#held = undefined;
    return held;
  }

  /** As Device.memoryStats. */
  stats(): MemoryStats {
    this.#device.guard();
    check(native().fb_memory_stats(this.#device.handle, statsOut), "memory stats");
    const [usedBytes, spareBytes, limitBytes] = statsOut;
    const byLabel = new Map<string, { label: string; bytes: number; blocks: number }>();
    for (const { label, bytes } of this.#blocks.values()) {
      const owner = byLabel.get(label) ?? { label, bytes: 0, blocks: 0 };
      owner.bytes += bytes;
      owner.blocks++;
      byLabel.set(label, owner);
    }
    const owners = [...byLabel.values()].sort((a, b) => b.bytes - a.bytes);
    return { usedBytes, spareBytes, limitBytes, owners };
  }

  /** As Device.freezeMemory. */
  freeze(frozen: boolean): void {
    this.#device.guard();
    check(native().fb_memory_freeze(this.#device.handle, frozen ? 1 : 0), "freeze memory");
  }

  /** As Device.upload. */
  upload(target: Address, bytes: Uint8Array): void {
    requireInteger("target", target, 1);
    if (!(bytes instanceof Uint8Array))
      throw new OptionError("bytes", bytes, "a Uint8Array", "make a view of the bytes.");
    for (let at = 0; at < bytes.byteLength; at += stagingBytes) {
      const part = bytes.subarray(at, at + stagingBytes);
      using staging = this.alloc(part.byteLength, "upload staging", true);
      new Uint8Array(staging.hostBytes()).set(part);
      this.#stream.copy(target + at, staging.address, part.byteLength);
    }
  }

  /** As Device.download. */
  download(source: Address, byteLength: number): Uint8Array<ArrayBuffer> {
    requireInteger("source", source, 1);
    requireInteger("byteLength", byteLength, 0);
    if (this.#device.kind === "cpu") {
      this.#stream.wait();
      return new Uint8Array(borrow(source, byteLength)).slice();
    }
    const bytes = new Uint8Array(new ArrayBuffer(byteLength));
    using staging = this.alloc(Math.min(byteLength, stagingBytes), "download staging", true);
    for (let at = 0; at < byteLength; at += stagingBytes) {
      const count = Math.min(stagingBytes, byteLength - at);
      this.#stream.copy(staging.address, source + at, count);
      this.#stream.wait();
      bytes.set(new Uint8Array(staging.hostBytes(), 0, count), at);
    }
    return bytes;
  }

  #outOfMemory(status: number, label: string): OutOfMemoryError {
    const { askedBytes, freeBytes, message } = failureOf(status, label) as OutOfMemoryError;
    const owners = this.stats().owners.slice(0, 3);
    const largest = owners.map((owner) => `${owner.label} ${owner.bytes} bytes`).join(", ");
    const fix = "dispose what is not needed, or use fewer pages or smaller tensors.";
    const whole = `${message}; largest owners: ${largest || "none"}. Fix: ${fix}`;
    return new OutOfMemoryError(askedBytes, freeBytes, whole);
  }
}
