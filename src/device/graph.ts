import { OptionError } from "../errors.ts";
import { native } from "../ffi/library.ts";
import { check } from "../ffi/status.ts";
import type { Device } from "./device.ts";
import { Owner } from "./owner.ts";
import type { Stream } from "./stream.ts";

/** Something a graph captured that must still hold when it is replayed; throws when it does not. */
export type ReplayCheck = (stream: Stream) => void;

/**
 * A captured list of launches and copies, replayed with one call. Contents change, addresses do
 * not: keep the tensors that were captured until the graph is disposed.
 */
export class Graph extends Owner {
  readonly #checks: ReplayCheck[];

  constructor(
    /** Native handle. */
    readonly handle: number,
    checks: ReplayCheck[],
    label: string,
    readonly device: Device,
    /** Blocks freed while the graph was captured: it still uses them. */
    readonly held: readonly number[],
  ) {
    super(label);
    this.#checks = checks;
  }

  /**
   * Queues all captured work on `stream`. Every plan that was captured is checked first: one that is
   * missing, stale or over its bucket throws PlanError and nothing is launched.
   */
  replay(stream: Stream): void {
    this.guard();
    stream.guard();
    if (stream.device !== this.device) {
      throw new OptionError("stream", stream.label, "of the graph's device", "capture there.");
    }
    for (let i = 0; i < this.#checks.length; i++) this.#checks[i](stream);
    check(native().fb_graph_launch(this.handle as never, stream.handle as never), this.label);
  }

  /** Throws DisposedError when the graph or its device was disposed. */
  override guard(): void {
    super.guard();
    this.device.guard();
  }

  protected override release(): void {
    if (this.device.disposed) return;
    native().fb_graph_free(this.handle as never);
    for (const address of this.held) this.device.free(address);
  }
}
