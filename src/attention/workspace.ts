import type { Device } from "../device/device.ts";
import { Owner } from "../device/owner.ts";
import { GrowingBuffer } from "../device/ring.ts";
import type { Stream } from "../device/stream.ts";

const byStream = new WeakMap<Stream, Workspace>();

/** Bytes at the start of a workspace for the kernels' ticket counters. */
const counterBytes = 256;

/** Room for the partial states of split rows; one per stream serves all attention objects on it. */
export class Workspace extends Owner {
  readonly buffer: GrowingBuffer;

  private constructor(
    device: Device,
    readonly stream: Stream,
  ) {
    super(`workspace of ${stream.label}`);
    this.buffer = new GrowingBuffer(device, this.label);
  }

  /** The workspace of a stream of the device. */
  static of(device: Device, stream: Stream): Workspace {
    let workspace = byStream.get(stream);
    if (workspace === undefined) byStream.set(stream, (workspace = new Workspace(device, stream)));
    return workspace;
  }

  /** int32 [2] counters, zero between launches. */
  get counters(): number {
    return this.buffer.address;
  }

  /** Where partial states start. */
  get partials(): number {
    return this.buffer.address + counterBytes;
  }

  /** Makes room for `bytes` of partial states. */
  ensure(bytes: number): void {
    if (this.buffer.fits(counterBytes + bytes)) return;
    this.buffer.ensure(counterBytes + bytes);
    this.stream.fill(this.buffer.address, 0, counterBytes);
  }

  protected override release(): void {
    this.buffer[Symbol.dispose]();
  }
}
