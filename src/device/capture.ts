import { DeviceError, OptionError } from "../errors.ts";
import { out, valueOf } from "../ffi/foreign.ts";
import { native } from "../ffi/library.ts";
import { check, Status } from "../ffi/status.ts";
import type { GraphHandle } from "../ffi/symbols.ts";
import { requireText } from "../require.ts";
import type { Context } from "./context.ts";
import { Graph, type ReplayCheck, type ReplayHooks } from "./graph.ts";
import type { Kernel } from "./kernel.ts";
import type { LaunchObservers } from "./launch.ts";
import type { MemoryPool } from "./memory.ts";
import { disposalCount, type Owner } from "./owner.ts";
import { after, requireStream, type Stream } from "./stream.ts";

const graphOut = out<GraphHandle>();

/** Captures of a device, one at a time, and the checks that what is captured registers. */
export class Captures {
  readonly #device: Context;
  readonly #memory: MemoryPool;
  readonly #observers: LaunchObservers;
  #busy = false;
  /** Of a capture whose body runs; a recording has none. */
  #hooks: ReplayHooks | undefined;
  /** The keys for which there is a check already. */
  readonly #checked = new Set<object>();
  /** What the captured work reads and writes. */
  readonly #needed = new Set<Owner>();
  /** By key, the stream of the last replay: the key's own may be gone. */
  readonly #replayed = new WeakMap<object, Stream>();
  /** What is launched since the capture began. */
  #kernels = new Set<Kernel>();

  constructor(device: Context, memory: MemoryPool, observers: LaunchObservers) {
    this.#device = device;
    this.#memory = memory;
    this.#observers = observers;
  }

  /** True while {@link capture} runs its body. */
  get capturing(): boolean {
    return this.#hooks !== undefined;
  }

  /** True while {@link capture} or {@link record} runs its body. */
  get busy(): boolean {
    return this.#busy;
  }

  /** As Device.capture. Errors: DeviceError, OptionError, and what the body throws. */
  capture(stream: Stream, body: () => void, label: string): Graph {
    if (typeof body !== "function")
      throw new OptionError("body", body, "a function", "queue the work in a function.");
    const hooks: ReplayHooks = { checks: [], queued: [] };
    return this.#record(stream, label, hooks, () => {
      this.#hooks = hooks;
      try {
        const result: unknown = body();
        // What the body disposed was for itself, and is kept by the graph.
        const needed = [...this.#needed].filter(({ gone }) => !gone);
        hooks.checks.unshift(guardOf(needed));
        return result;
      } finally {
        this.#hooks = undefined;
        this.#checked.clear();
        this.#needed.clear();
      }
    });
  }

  /**
   * Captures what the body queues as it is: it does not know that it is captured, and replays check
   * nothing. All that it needs must be on the device. For benchmarks of single launches.
   */
  record(stream: Stream, body: () => void, label: string): Graph {
    return this.#record(stream, label, { checks: [], queued: [] }, body);
  }

  /** As Device.onReplay. */
  onReplay(key: object, replayCheck: ReplayCheck): boolean {
    if (this.#hooks === undefined || this.#checked.has(key)) return false;
    this.#checked.add(key);
    this.#hooks.checks.push(replayCheck);
    return true;
  }

  /** As Device.afterReplay. */
  afterReplay(queued: () => void): void {
    this.#hooks?.queued.push(queued);
  }

  /**
   * Lets replays of the graph being captured, on whatever stream, run after what `stream` holds
   * then and before what it is given later: they share `key`, which its work alone may use.
   */
  keepOrder(key: object, stream: Stream): void {
    if (this.#hooks === undefined) return;
    let last = stream;
    const isFirst = this.onReplay(key, (replayed) => {
      const before = stream.disposed ? (this.#replayed.get(key) ?? stream) : stream;
      if (replayed !== before) after(replayed, before);
      last = replayed;
      this.#replayed.set(key, last);
    });
    if (isFirst) this.afterReplay(() => last === stream || after(stream, last));
  }

  /** As Device.needOnReplay. */
  needOnReplay(owners: readonly Owner[]): void {
    if (this.#hooks === undefined) return;
    for (const owner of owners) this.#needed.add(owner);
  }

  /** Lets the graph being captured hold a kernel that it launches. */
  hold(kernel: Kernel): void {
    this.#kernels.add(kernel);
  }

  #record(stream: Stream, label: string, hooks: ReplayHooks, body: () => unknown): Graph {
    requireStream(stream, this.#device);
    requireText("label", label);
    if (this.#busy) {
      throw new DeviceError(Status.capture, "a capture runs already. Fix: end it before the next.");
    }
    check(native().fb_capture_begin(stream.handle), label);
    this.#busy = true;
    this.#memory.hold();
    try {
      const result: unknown = body();
      if (result instanceof Promise) {
        throw new OptionError("body", "an async function", "synchronous", "await before capture.");
      }
    } catch (error) {
      try {
        this.#end(stream, hooks, label)[Symbol.dispose]();
      } catch {
        // A capture that broke has no graph; what broke it is thrown below.
      }
      throw error;
    }
    return this.#end(stream, hooks, label);
  }

  #end(stream: Stream, hooks: ReplayHooks, label: string): Graph {
    this.#busy = false;
    const held = this.#memory.takeHeld();
    const kernels = this.#kernels;
    this.#kernels = new Set();
    const status = native().fb_capture_end(stream.handle, graphOut);
    if (status !== Status.ok) for (const address of held) this.#memory.free(address);
    check(status, label);
    const parts = { memory: this.#memory, observers: this.#observers, hooks, held, kernels };
    return new Graph(stream.device, valueOf(graphOut), label, parts);
  }
}

/** Throws once one of the owners is gone; a model has hundreds, which are looked at only then. */
function guardOf(owners: readonly Owner[]): () => void {
  let seen = -1;
  return () => {
    const count = disposalCount();
    if (count === seen) return;
    for (const owner of owners) owner.guard();
    seen = count;
  };
}
