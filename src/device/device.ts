import { OptionError } from "../errors.ts";
import { native } from "../ffi/library.ts";
import type { Params } from "../ffi/params.ts";
import { check, Status } from "../ffi/status.ts";
import type { Address } from "../ffi/symbols.ts";
import { counted } from "../shown.ts";
import { Captures } from "./capture.ts";
import { Context } from "./context.ts";
import type { Graph, ReplayCheck } from "./graph.ts";
import type { Kernel } from "./kernel.ts";
import { LaunchLog } from "./launch-log.ts";
import { type LaunchObserver, LaunchObservers } from "./launch.ts";
import { type Memory, MemoryPool, type MemoryStats } from "./memory.ts";
import {
  type CpuLevel,
  cpuLevels,
  type DeviceKind,
  type DeviceOptions,
  type Opened,
  openNative,
} from "./open.ts";
import { jitTarget, loadKernels } from "./operators.ts";
import type { Owner } from "./owner.ts";
import { Event, requireStream, Stream } from "./stream.ts";

/** A device: its threads or processors, memory and streams. */
export class Device extends Context implements AsyncDisposable {
  /** The processor's name, level and threads, or the GPU's name and compute capability. */
  readonly name: string;
  /** Why this device was taken. */
  readonly why: string;
  /** Threads of the CPU device; multiprocessors of a GPU. */
  readonly processors: number;
  /** CPU kernels that run; "baseline" for a GPU. */
  readonly level: CpuLevel;
  readonly lastLevelCacheBytes: number;
  /**
   * Whether attention looks at index tensors, and waits for them, before a kernel follows them: on
   * the CPU, and on a GPU under FLASHBUN_SYNC=1.
   */
  readonly checksContents: boolean;
  /** The default stream. */
  readonly stream: Stream;
  /** @internal Captures, and recordings of code that does not know about them. */
  readonly captures: Captures;
  readonly #memory: MemoryPool;
  readonly #observers = new LaunchObservers();
  readonly #kernels = new Map<string, Kernel>();
  readonly #log: LaunchLog | undefined;

  private constructor(opened: Opened) {
    super(opened);
    const { properties } = this;
    this.why = opened.why;
    this.processors = properties.processors;
    this.level = cpuLevels[properties.level];
    this.lastLevelCacheBytes = properties.lastLevelCacheBytes;
    this.name = nameOf(this);
    this.checksContents = this.kind === "cpu" || process.env["FLASHBUN_SYNC"] === "1";
    this.stream = this.createStream("default stream");
    this.#memory = new MemoryPool(this, this.stream);
    this.captures = new Captures(this, this.#memory, this.#observers);
    this.#log = LaunchLog.fromEnvironment(this.stream, this.captures);
    if (this.#log !== undefined) this.observe(this.#log);
  }

  /**
   * Opens a device; its kernels are loaded when they are first used. Errors: OptionError for a
   * kind, thread count or level that is not there, DriverError without a driver and a GPU that fit.
   */
  static async open(kind: DeviceKind = "auto", options: DeviceOptions = {}): Promise<Device> {
    const device = new Device(openNative(kind, options));
    if (device.kind === "cpu") return device;
    try {
      jitTarget(device);
    } catch (error) {
      device[Symbol.dispose]();
      throw error;
    }
    return device;
  }

  /** A further stream; its work is ordered only with itself and what it waits for. */
  createStream(label = "stream"): Stream {
    return Stream.create(this, label);
  }

  /** An event for this device's streams. */
  createEvent(label = "event"): Event {
    return Event.create(this, label);
  }

  /**
   * Device memory of `bytes` bytes under a label that memory reports use. `pinned` memory is host
   * memory that the device reads. Errors: OutOfMemoryError, DeviceError when the pool is frozen.
   */
  alloc(bytes: number, label: string, pinned = false): Memory {
    return this.#memory.alloc(bytes, label, pinned);
  }

  /**
   * Queues a copy of host bytes to device memory, through pinned memory: `bytes` is free at once.
   */
  upload(target: Address, bytes: Uint8Array): void {
    this.#memory.upload(target, bytes);
  }

  /**
   * A host copy of `byteLength` bytes of device memory; blocks until the default stream is done.
   */
  download(source: Address, byteLength: number): Uint8Array<ArrayBuffer> {
    return this.#memory.download(source, byteLength);
  }

  /** Bytes in use, kept for reuse and allowed, with the largest owners first. */
  memoryStats(): MemoryStats {
    return this.#memory.stats();
  }

  /** Refuses (or allows again) every further allocation: for graphs, after warm-up. */
  freezeMemory(frozen = true): void {
    this.#memory.freeze(frozen);
  }

  /**
   * @internal A kernel by name, loaded when it is first asked for, within a capture too. Errors:
   * DeviceError when there is none, CompileError.
   */
  kernel(name: string): Kernel {
    this.guard();
    return this.#kernels.get(name) ?? this.#load(name);
  }

  #load(name: string): Kernel {
    for (const kernel of loadKernels(this, name)) this.#kernels.set(kernel.name, kernel);
    return this.#kernels.get(name)!;
  }

  /**
   * @internal Queues `grid` items of a kernel; the parameters are copied now. Errors: OptionError,
   * DeviceError.
   */
  launch(stream: Stream, kernel: Kernel, params: Params, grid: number): void {
    requireStream(stream, this);
    const { handle, paramsBytes } = kernel;
    if (params.view.byteLength < paramsBytes) throw tooFew(kernel, params);
    if (this.captures.busy) this.captures.hold(kernel);
    const seen = this.#observers.launching(stream, kernel.name, grid, kernel, params);
    const status = native().fb_launch(stream.handle, handle, params.view, paramsBytes, grid);
    if (status !== Status.ok) check(status, kernel.name);
    if (seen !== undefined) this.#observers.launched(seen);
  }

  /**
   * @internal Queues a product by cuBLASLt, which is open, as {@link launch} does a kernel; the
   * status.
   */
  launchCublasLt(stream: Stream, params: Params, workspace: Address, bytes: number): number {
    requireStream(stream, this);
    const seen = this.#observers.launching(stream, "cublasLtMatmul", 1);
    const status = native().fb_cublaslt_matmul(stream.handle, params.view, workspace, bytes);
    if (seen !== undefined && status === Status.ok) this.#observers.launched(seen);
    return status;
  }

  /** @internal Shows the observer every launch and replay until what is returned is disposed. */
  observe(observer: LaunchObserver): Disposable {
    return this.#observers.add(observer);
  }

  /**
   * Captures what `body` queues on `stream` instead of running it; a replay checks the plans that
   * were captured.
   */
  capture(stream: Stream, body: () => void, label = "graph"): Graph {
    return this.captures.capture(stream, body, label);
  }

  /** @internal True while {@link capture} runs its body. */
  get capturing(): boolean {
    return this.captures.capturing;
  }

  /**
   * @internal Adds a check that every replay of the graph being captured makes first, once per
   * `key`: whether this is the first.
   */
  onReplay(key: object, replayCheck: ReplayCheck): boolean {
    return this.captures.onReplay(key, replayCheck);
  }

  /** @internal Adds what every replay of the graph being captured calls once it is queued. */
  afterReplay(queued: () => void): void {
    this.captures.afterReplay(queued);
  }

  /**
   * @internal Makes every replay of the graph being captured throw once one of these was disposed.
   */
  needOnReplay(...owners: readonly Owner[]): void {
    this.captures.needOnReplay(owners);
  }

  /** @internal */
  override toString(): string {
    const what = `Device ${this.label}, ${this.name}`;
    if (this.gone) return `${what} (disposed)`;
    const { usedBytes, owners } = this.memoryStats();
    return `${what}: ${usedBytes} bytes used by ${counted(owners.length, "owner")}`;
  }

  /** Waits for all queued work without blocking, then frees the device and what it owns. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.disposed) return;
    await this.stream.done().catch(() => {});
    this[Symbol.dispose]();
  }

  /** Frees the device at once; what is queued is waited for. */
  override [Symbol.dispose](): void {
    try {
      if (!this.disposed) this.#log?.close();
    } finally {
      super[Symbol.dispose]();
    }
  }
}

function tooFew({ name, paramsBytes }: Kernel, { view }: Params): OptionError {
  const allowed = `${paramsBytes} bytes or more, as ${name} reads`;
  return new OptionError("params", `${view.byteLength} bytes`, allowed, "pass its own struct.");
}

function nameOf({ kind, properties }: Context): string {
  const { name, processors, computeMajor, computeMinor } = properties;
  if (kind === "cpu")
    return `${name || "CPU"} (${cpuLevels[properties.level]}, ${counted(processors, "thread")})`;
  return `${name} (compute ${computeMajor}.${computeMinor}, ${processors} multiprocessors)`;
}
