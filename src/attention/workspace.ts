import { Owner } from "../device/owner.ts";
import { GrowingBuffer } from "../device/ring.ts";
import type { Stream } from "../device/stream.ts";

const byStream = new WeakMap<Stream, Workspace>();

/** Room for the partial states of split rows; one a stream serves all attention objects on it. */
export class Workspace extends Owner {
  readonly buffer: GrowingBuffer;

  private constructor(stream: Stream) {
    super(`workspace of ${stream.label}`);
    this.buffer = new GrowingBuffer(stream.device, this.label);
  }

  /** The workspace of a stream. */
  static of(stream: Stream): Workspace {
    let workspace = byStream.get(stream);
    if (workspace === undefined) byStream.set(stream, (workspace = new Workspace(stream)));
    return workspace;
  }

  protected override release(): void {
    this.buffer[Symbol.dispose]();
  }
}
