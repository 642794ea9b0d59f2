import { OptionError } from "../errors.ts";
import { native } from "../ffi/library.ts";
import { check } from "../ffi/status.ts";
import type { GraphHandle } from "../ffi/symbols.ts";
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
  #checks: ReplayCheck[];
  readonly #held: number[];

  constructor(
    /** Native handle. */
    readonly handle: GraphHandle,
    checks: ReplayCheck[],
    label: string,
    readonly device: Device,
    /** Blocks freed while the graph was captured: it still uses them. */
    held: number[],
  ) {
    super(label);
    this.#checks = checks;
    this.#held = held;
  }

  /**
   * Queues all captured work on `stream`. Every plan that was captured is checked first: one that
   * is missing, stale or over its bucket throws PlanError and nothing is launched.
   */
  replay(stream: Stream): void {
    this.guard();
    stream.guard();
    if (stream.device !== this.device) {
      throw new OptionError("stream", stream.label, "of the graph's device", "capture there.");
    }
    for (let i = 0; i < this.#checks.length; i++) this.#checks[i](stream);
    this.device.launchGraph(stream, this);
  }

  /**
   * Takes over what `newer` captured: cheaper than a new graph where only parameters differ.
   * `newer` is disposed. Errors: DeviceError, and then both graphs are as before.
   */
  update(newer: Graph): void {
    this.guard();
    newer.guard();
    if (newer.device !== this.device || newer === this) {
      throw new OptionError("newer", newer.label, "another graph of the device", "capture it.");
    }
    check(native().fb_graph_update(this.handle, newer.handle), this.label);
    this.#checks = newer.#checks;
    this.#held.push(...newer.#held.splice(0));
    newer[Symbol.dispose]();
  }

  /** Throws DisposedError when the graph or its device was disposed. */
  override guard(): void {
    super.guard();
    this.device.guard();
  }

  protected override release(): void {
    if (this.device.disposed) return;
    native().fb_graph_free(this.handle);
    for (const address of this.#held) this.device.free(address);
  }
}
