import { OptionError } from "../errors.ts";
import { native } from "../ffi/library.ts";
import { check } from "../ffi/status.ts";
import type { Address, GraphHandle } from "../ffi/symbols.ts";
import type { Context } from "./context.ts";
import type { Kernel } from "./kernel.ts";
import type { LaunchObservers } from "./launch.ts";
import type { MemoryPool } from "./memory.ts";
import { Owner } from "./owner.ts";
import { requireStream, type Stream } from "./stream.ts";

/** Something a graph captured that must still hold when it is replayed; throws when it does not. */
export type ReplayCheck = (stream: Stream) => void;

/** What a capture registers for the replays of its graph. */
export interface ReplayHooks {
  /** Made before anything is launched. */
  readonly checks: ReplayCheck[];
  /** Called once a replay is queued. */
  readonly queued: (() => void)[];
}

/** What a captured graph shows its replays to, and holds on to. */
export interface GraphParts {
  readonly observers: LaunchObservers;
  readonly hooks: ReplayHooks;
  readonly memory: MemoryPool;
  /** Blocks freed while the graph was captured: it still uses them. */
  readonly held: Address[];
  /** What it launches: loaded as long as the graph is. */
  readonly kernels: Set<Kernel>;
}

/**
 * A captured list of launches and copies, replayed with one call. Contents change, addresses do
 * not: keep the tensors that were captured until the graph is disposed.
 */
export class Graph extends Owner {
  readonly #parts: GraphParts;
  #hooks: ReplayHooks;

  /** @internal */
  constructor(
    readonly device: Context,
    /** @internal Native handle. */
    readonly handle: GraphHandle,
    label: string,
    parts: GraphParts,
  ) {
    super(label);
    this.#parts = parts;
    this.#hooks = parts.hooks;
  }

  /**
   * Queues all captured work on `stream`. Every plan that was captured is checked first: one that
   * is missing, stale or over its bucket throws PlanError and nothing is launched.
   */
  replay(stream: Stream): void {
    this.guard();
    requireStream(stream, this.device);
    const { checks, queued } = this.#hooks;
    for (let i = 0; i < checks.length; i++) checks[i](stream);
    const { observers } = this.#parts;
    const seen = observers.launching(stream, this.label, 1);
    check(native().fb_graph_launch(this.handle, stream.handle), this.label);
    if (seen !== undefined) observers.launched(seen);
    for (let i = 0; i < queued.length; i++) queued[i]();
  }

  /**
   * Takes over what `newer` captured: cheaper than a new graph where only parameters differ.
   * `newer` is disposed. Errors: DeviceError, and then both graphs are as before.
   */
  update(newer: Graph): void {
    this.guard();
    if (typeof newer?.replay !== "function" || newer === this || newer.device !== this.device) {
      throw new OptionError("newer", newer, "another graph of the device", "capture it.");
    }
    newer.guard();
    check(native().fb_graph_update(this.handle, newer.handle), this.label);
    this.#hooks = newer.#hooks;
    const { held, memory } = this.#parts;
    for (const address of held.splice(0)) memory.free(address);
    held.push(...newer.#parts.held.splice(0));
    const { kernels } = this.#parts;
    kernels.clear();
    for (const kernel of newer.#parts.kernels) kernels.add(kernel);
    newer[Symbol.dispose]();
  }

  /** @internal */
  override toString(): string {
    return `${super.toString()} on ${this.device.label}`;
  }

  /** @internal Throws DisposedError when the graph or its device was disposed. */
  override guard(): void {
    super.guard();
    this.device.guard();
  }

  protected override release(): void {
    if (this.device.disposed) return;
    native().fb_graph_free(this.handle);
    // They hold what only replays need.
    this.#hooks = { checks: [], queued: [] };
    const { held, memory, kernels } = this.#parts;
    for (const address of held) memory.free(address);
    kernels.clear();
  }
}
