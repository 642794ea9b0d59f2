import type { Device } from "../device/device.ts";
import { Owner } from "../device/owner.ts";
import { GrowingBuffer } from "../device/ring.ts";
import type { Stream } from "../device/stream.ts";
import { countedMerges } from "../plan/workspace.ts";

const byStream = new WeakMap<Stream, Workspace>();

/** Bytes at the start of a workspace for the counters of tickets, then those of merges. */
const counterBytes = 256 + 4 * countedMerges;

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
    if (workspace === undefined) {
      byStream.set(stream, (workspace = new Workspace(device, stream)));
      stream.owned.push(workspace);
    }
    return workspace;
  }

  /** int32 counters of tickets [64] and of merges [countedMerges], zero between launches. */
  get counters(): number {
    return this.buffer.address;
  }

  /** Where partial states start. */
  get partials(): number {
    return this.buffer.address + counterBytes;
  }

  /**
   * Lets the graph that is being captured go on in the room as it is now, when the workspace grows
   * for others and on whatever stream it is replayed. Returns the bytes of partial states there.
   */
  lend(device: Device): number {
    const { stream } = this;
    const memory = this.buffer.lend();
    device.needOnReplay(memory);
    device.captures.keepOrder(this, stream);
    return memory.byteLength - counterBytes;
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
