import { DeviceError, OptionError, OutOfMemoryError, requireInteger } from "../errors.ts";
import { borrow, cString, out, valueOf } from "../ffi/foreign.ts";
import { native } from "../ffi/library.ts";
import { DeviceProperties, KernelFacts } from "../ffi/params.gen.ts";
import type { Params } from "../ffi/params.ts";
import { check, failureOf, Status } from "../ffi/status.ts";
import type { Address, DeviceHandle, EventHandle, GraphHandle } from "../ffi/symbols.ts";
import type { KernelHandle, StreamHandle } from "../ffi/symbols.ts";
import { Event } from "./event.ts";
import { Graph, type ReplayCheck } from "./graph.ts";
import type { Kernel } from "./kernel.ts";
import { LaunchLog } from "./launch-log.ts";
import { Memory } from "./memory.ts";
import { Notifier } from "./notifier.ts";
import { type CpuLevel, cpuLevels, type DeviceKind, type DeviceOptions } from "./open.ts";
import { type Opened, openNative } from "./open.ts";
import { loadOperators } from "./operators.ts";
import { Owner } from "./owner.ts";
import { Stream } from "./stream.ts";

/** Bytes of a device's memory and who holds the most. */
export interface MemoryStats {
  usedBytes: number;
  spareBytes: number;
  limitBytes: number;
  owners: { label: string; bytes: number; blocks: number }[];
}

const newStream = out<StreamHandle>();
const newEvent = out<EventHandle>();
const newGraph = out<GraphHandle>();
const newBlock = out<Address>();
const foundKernel = out<KernelHandle>();
const out3 = new Float64Array(new ArrayBuffer(24));
const kernelFacts = new KernelFacts();

/** The name stands at the end of the properties. */
const nameBytes = 64;

/** Bytes of device memory that one copy to or from the host stages at most. */
const stagingBytes = 64 << 20;

/** A device: its threads or processors, memory and streams. */
export class Device extends Owner implements AsyncDisposable {
  readonly kind: "cpu" | "cuda";
  /** Number of the GPU; 0 for the CPU. */
  readonly ordinal: number;
  /** The processor's name, level and threads, or the GPU's name and compute capability. */
  readonly name: string;
  /** Why this device was taken. */
  readonly why: string;
  /** Threads of the CPU device; multiprocessors of a GPU. */
  readonly processors: number;
  /** CPU kernels that run; "baseline" for a GPU. */
  readonly level: CpuLevel;
  readonly lastLevelCacheBytes: number;
  /** What the driver says of a GPU; zeros for the CPU. */
  readonly properties: DeviceProperties;
  /** The default stream. */
  readonly stream: Stream;
  readonly notifier: Notifier;
  /** Native handle. */
  readonly handle: DeviceHandle;
  readonly #kernels = new Map<string, Kernel>();
  readonly #blocks = new Map<number, { label: string; bytes: number }>();
  readonly #log: LaunchLog | undefined;
  #captured: ReplayCheck[] | undefined;
  /** For what the capture has a check already. */
  readonly #checked = new Set<object>();
  /** Blocks freed during a capture: the graph's to free. */
  #held: number[] = [];

  private constructor({ handle, kind, ordinal, why }: Opened) {
    const properties = new DeviceProperties();
    check(native().fb_device_properties(handle, properties.view), "device properties");
    super(kind === "cpu" ? "cpu device" : `cuda:${ordinal}`);
    this.kind = kind;
    this.ordinal = ordinal;
    this.handle = handle;
    this.why = why;
    this.properties = properties;
    this.processors = properties.processors;
    this.level = cpuLevels[properties.level]!;
    this.lastLevelCacheBytes = properties.lastLevelCacheBytes;
    this.name = nameOf(kind, properties);
    this.notifier = new Notifier(properties.notifyFd);
    this.stream = this.createStream("default stream");
    this.#log = LaunchLog.fromEnvironment(this);
  }

  /**
   * Opens a device; on a GPU this loads its kernels, and compiles those that nobody compiled yet.
   * Errors: OptionError for a kind, thread count or level that is not there, DriverError without a
   * driver that fits, CompileError.
   */
  static async open(kind: DeviceKind = "auto", options: DeviceOptions = {}): Promise<Device> {
    const device = new Device(openNative(kind, options));
    if (device.kind === "cpu") return device;
    try {
      for (const kernel of await loadOperators(device)) device.#kernels.set(kernel.name, kernel);
    } catch (error) {
      device[Symbol.dispose]();
      throw error;
    }
    return device;
  }

  /** A further stream; its work is ordered only with itself and what it waits for. */
  createStream(label = "stream"): Stream {
    this.guard();
    check(native().fb_stream_create(this.handle, newStream), "create stream");
    return new Stream(this, valueOf(newStream), label);
  }

  /** An event for this device's streams. */
  createEvent(label = "event"): Event {
    this.guard();
    check(native().fb_event_create(this.handle, newEvent), "create event");
    return new Event(this, valueOf(newEvent), label);
  }

  /**
   * Device memory of `bytes` bytes under a label that memory reports use. `pinned` memory is host
   * memory that the device reads. Errors: OutOfMemoryError, DeviceError when the pool is frozen.
   */
  alloc(bytes: number, label: string, pinned = false): Memory {
    this.guard();
    requireInteger("bytes", bytes, 0);
    const size = Math.max(bytes, 1);
    const status = native().fb_memory_alloc(this.handle, size, pinned ? 1 : 0, newBlock);
    if (status === Status.outOfMemory) throw this.#outOfMemory(status, label);
    check(status, label);
    const address = valueOf(newBlock);
    this.#blocks.set(address, { label, bytes });
    return new Memory(this, address, bytes, label, pinned || this.kind === "cpu");
  }

  /**
   * Queues a copy of host bytes to device memory, through pinned memory: `bytes` is free at once.
   */
  upload(target: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.byteLength; at += stagingBytes) {
      const part = bytes.subarray(at, at + stagingBytes);
      using staging = this.alloc(part.byteLength, "upload staging", true);
      new Uint8Array(staging.hostBytes()).set(part);
      this.stream.copy(target + at, staging.address, part.byteLength);
    }
  }

  /**
   * A host copy of `byteLength` bytes of device memory; blocks until the default stream is through.
   */
  download(source: number, byteLength: number): Uint8Array<ArrayBuffer> {
    if (this.kind === "cpu") {
      this.stream.wait();
      return new Uint8Array(borrow(source, byteLength)).slice();
    }
    const bytes = new Uint8Array(new ArrayBuffer(byteLength));
    using staging = this.alloc(Math.min(byteLength, stagingBytes), "download staging", true);
    for (let at = 0; at < byteLength; at += stagingBytes) {
      const count = Math.min(stagingBytes, byteLength - at);
      this.stream.copy(staging.address, source + at, count);
      this.stream.wait();
      bytes.set(new Uint8Array(staging.hostBytes(), 0, count), at);
    }
    return bytes;
  }

  /** Gives a block back once all that is queued now is through. For {@link Memory}. */
  free(address: number): void {
    if (this.disposed || !this.#blocks.has(address)) return;
    if (this.#captured !== undefined) {
      this.#held.push(address);
      return;
    }
    this.#blocks.delete(address);
    native().fb_memory_free(this.handle, address);
  }

  /** Bytes in use, kept for reuse and allowed, with the largest owners first. */
  memoryStats(): MemoryStats {
    this.guard();
    check(native().fb_memory_stats(this.handle, out3), "memory stats");
    const byLabel = new Map<string, { label: string; bytes: number; blocks: number }>();
    for (const { label, bytes } of this.#blocks.values()) {
      const owner = byLabel.get(label) ?? { label, bytes: 0, blocks: 0 };
      owner.bytes += bytes;
      owner.blocks++;
      byLabel.set(label, owner);
    }
    const owners = [...byLabel.values()].sort((a, b) => b.bytes - a.bytes);
    return { usedBytes: out3[0]!, spareBytes: out3[1]!, limitBytes: out3[2]!, owners };
  }

  /** Refuses (or allows again) every further allocation: for graphs, after warm-up. */
  freezeMemory(frozen = true): void {
    this.guard();
    check(native().fb_memory_freeze(this.handle, frozen ? 1 : 0), "freeze memory");
  }

  /** A kernel by name; looked up once. Errors: DeviceError when there is none. */
  kernel(name: string): Kernel {
    this.guard();
    const known = this.#kernels.get(name);
    if (known !== undefined) return known;
    const status = native().fb_kernel_find(
      this.handle,
      cString(name),
      foundKernel,
      kernelFacts.view,
    );
    check(status, `kernel ${name}`);
    const { paramsBytes, itemRows } = kernelFacts;
    const kernel = { name, handle: valueOf(foundKernel), paramsBytes, itemRows };
    this.#kernels.set(name, kernel);
    return kernel;
  }

  /** Queues `grid` items of a kernel; the parameters are copied now. Errors: DeviceError. */
  launch(stream: Stream, kernel: Kernel, params: Params, grid: number): void {
    stream.guard();
    if (stream.device !== this) {
      throw new OptionError(
        "stream",
        stream.label,
        "a stream of this device",
        "use its own stream.",
      );
    }
    this.#log?.launching(stream);
    const status = native().fb_launch(
      stream.handle,
      kernel.handle,
      params.view,
      kernel.paramsBytes,
      grid,
    );
    if (status !== Status.ok) check(status, kernel.name);
    this.#log?.launched(stream, kernel.name, grid);
  }

  /**
   * Captures what `body` queues on `stream` instead of running it. Captured plans register what a
   * replay has to check by {@link onReplay}.
   */
  capture(stream: Stream, body: () => void, label = "graph"): Graph {
    stream.guard();
    if (this.#captured !== undefined) {
      throw new DeviceError(Status.capture, "a capture runs already. Fix: end it before the next.");
    }
    check(native().fb_capture_begin(stream.handle), label);
    const checks: ReplayCheck[] = (this.#captured = []);
    try {
      const result: unknown = body();
      if (result instanceof Promise) {
        throw new OptionError("body", "an async function", "synchronous", "await before capture.");
      }
    } catch (error) {
      try {
        this.#endCapture(stream, checks, label)[Symbol.dispose]();
      } catch {
        // A capture that broke has no graph; what broke it is thrown below.
      }
      throw error;
    }
    return this.#endCapture(stream, checks, label);
  }

  /** True while {@link capture} runs its body. */
  get capturing(): boolean {
    return this.#captured !== undefined;
  }

  /**
   * Adds a check that every replay of the graph being captured makes first, once for each `key`.
   */
  onReplay(key: object, replayCheck: ReplayCheck): void {
    if (this.#captured === undefined || this.#checked.has(key)) return;
    this.#checked.add(key);
    this.#captured.push(replayCheck);
  }

  /** Makes every replay of the graph being captured throw once one of these was disposed. */
  needOnReplay(...owners: readonly Owner[]): void {
    for (const owner of owners) this.onReplay(owner, () => owner.guard());
  }

  /** Queues a captured graph. For {@link Graph}. */
  launchGraph(stream: Stream, graph: Graph): void {
    this.#log?.launching(stream);
    const status = native().fb_graph_launch(graph.handle, stream.handle);
    check(status, graph.label);
    this.#log?.launched(stream, graph.label, 1);
  }

  /** The failure that stopped this device, if any. */
  failure(): DeviceError | undefined {
    const status = native().fb_device_failure(this.handle);
    if (status === Status.ok) return undefined;
    return failureOf(status, this.label) as DeviceError;
  }

  /** Waits for all queued work without blocking, then frees the device and what it owns. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.disposed) return;
    await this.stream.done().catch(() => {});
    this[Symbol.dispose]();
  }

  /** Frees the device at once; what is queued is waited for. */
  override [Symbol.dispose](): void {
    if (!this.disposed) this.#log?.close();
    super[Symbol.dispose]();
  }

  protected override release(): void {
    this.notifier.close();
    native().fb_device_close(this.handle);
    this.#blocks.clear();
  }

  #endCapture(stream: Stream, checks: ReplayCheck[], label: string): Graph {
    this.#captured = undefined;
    this.#checked.clear();
    const held = this.#held;
    this.#held = [];
    const status = native().fb_capture_end(stream.handle, newGraph);
    if (status !== Status.ok) for (const address of held) this.free(address);
    check(status, label);
    return new Graph(valueOf(newGraph), checks, label, this, held);
  }

  #outOfMemory(status: number, label: string): OutOfMemoryError {
    const { askedBytes, freeBytes, message } = failureOf(status, label) as OutOfMemoryError;
    const owners = this.memoryStats().owners.slice(0, 3);
    const largest = owners.map((owner) => `${owner.label} ${owner.bytes} bytes`).join(", ");
    return new OutOfMemoryError(
      askedBytes,
      freeBytes,
      `${message}; largest owners: ${largest || "none"}. Fix: dispose what is not needed, or use fewer pages or smaller tensors.`,
    );
  }
}

function nameOf(kind: "cpu" | "cuda", properties: DeviceProperties): string {
  const { processors, computeMajor, computeMinor } = properties;
  const bytes = properties.view.subarray(properties.view.length - nameBytes);
  const brand = new TextDecoder().decode(bytes).replace(/\0.*/s, "");
  if (kind === "cpu")
    return `${brand || "CPU"} (${cpuLevels[properties.level]}, ${processors} threads)`;
  return `${brand} (compute ${computeMajor}.${computeMinor}, ${processors} multiprocessors)`;
}
