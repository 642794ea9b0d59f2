import { availableParallelism } from "node:os";
import { DeviceError, OptionError, OutOfMemoryError, requireInteger } from "../errors.ts";
import { addressOf, native } from "../ffi/library.ts";
import { DeviceProperties } from "../ffi/params.gen.ts";
import type { Params } from "../ffi/params.ts";
import { check, failureOf, Status } from "../ffi/status.ts";
import { Event } from "./event.ts";
import { Graph, type ReplayCheck } from "./graph.ts";
import type { Kernel } from "./kernel.ts";
import { Memory } from "./memory.ts";
import { Notifier } from "./notifier.ts";
import { Owner } from "./owner.ts";
import { Stream } from "./stream.ts";

/** What to open: "auto" takes the best device there is. */
export type DeviceKind = "auto" | "cpu" | `cuda:${number}`;

/** x86-64 levels of the CPU kernels, in rising order. */
export const cpuLevels = ["baseline", "v3", "v4"] as const;
/** One of {@link cpuLevels}. */
export type CpuLevel = (typeof cpuLevels)[number];

/** Options of {@link Device.open}. */
export interface DeviceOptions {
  /** CPU threads; default FLASHBUN_THREADS, else cores - 1. */
  threads?: number;
  /** CPU kernels to run; default FLASHBUN_CPU, else the best of this processor. */
  level?: CpuLevel;
  /** Most bytes that the device hands out; default: no limit beyond the system's. */
  memoryLimitBytes?: number;
}

/** Bytes of a device's memory and who holds the most. */
export interface MemoryStats {
  usedBytes: number;
  spareBytes: number;
  limitBytes: number;
  owners: { label: string; bytes: number; blocks: number }[];
}

const deviceOptions = ["threads", "level", "memoryLimitBytes"];

const out64 = new BigUint64Array(new ArrayBuffer(16));
const out32 = new Int32Array(new ArrayBuffer(8));
const out3 = new Float64Array(new ArrayBuffer(24));

/** A device: its threads or processors, memory and streams. */
export class Device extends Owner implements AsyncDisposable {
  readonly kind = "cpu";
  /** The processor's name, level and threads. */
  readonly name: string;
  /** Why this device was taken. */
  readonly why: string;
  /** Threads of the CPU device; processors of a GPU. */
  readonly processors: number;
  readonly level: CpuLevel;
  readonly lastLevelCacheBytes: number;
  /** The default stream. */
  readonly stream: Stream;
  readonly notifier: Notifier;
  readonly #handle: number;
  readonly #kernels = new Map<string, Kernel>();
  readonly #blocks = new Map<number, { label: string; bytes: number }>();
  #captured: ReplayCheck[] | undefined;
  /** Blocks freed during a capture: the graph's to free. */
  #held: number[] = [];

  private constructor(handle: number, why: string) {
    const properties = new DeviceProperties();
    check(
      native().fb_device_properties(handle as never, addressOf(properties.view) as never),
      "device properties",
    );
    super("cpu device");
    this.#handle = handle;
    this.why = why;
    this.processors = properties.processors;
    this.level = cpuLevels[properties.level]!;
    this.lastLevelCacheBytes = properties.lastLevelCacheBytes;
    const brand = new TextDecoder().decode(properties.view.subarray(40)).replace(/\0.*/s, "");
    this.name = `${brand || "CPU"} (${this.level}, ${this.processors} threads)`;
    this.notifier = new Notifier(properties.notifyFd);
    this.stream = this.createStream("default stream");
  }

  /** Opens a device. Errors: OptionError for a kind, thread count or level that is not there. */
  static async open(kind: DeviceKind = "auto", options: DeviceOptions = {}): Promise<Device> {
    if (kind !== "auto" && kind !== "cpu") {
      throw new OptionError(
        "kind",
        kind,
        '"auto" or "cpu": this build has no CUDA device',
        'open "auto".',
      );
    }
    for (const option of Object.keys(options)) {
      if (deviceOptions.includes(option)) continue;
      const allowed = `one of ${deviceOptions.join(", ")}`;
      throw new OptionError(`options.${option}`, "an option", allowed, "remove or rename it.");
    }
    const threads = threadsOf(options);
    const level = levelOf(options);
    const limit = options.memoryLimitBytes ?? 2 ** 47;
    requireInteger("memoryLimitBytes", limit, 1);
    const opened = native().fb_device_open(0, threads, level, limit, addressOf(out64) as never);
    if (opened === Status.unsupported) {
      const sentence = failureOf(opened, "open").message;
      throw new OptionError("level", cpuLevels[level], "one this processor runs", `${sentence}.`);
    }
    check(opened, "open cpu device");
    const why = kind === "cpu" ? "asked for by name" : "no CUDA device in this build";
    return new Device(Number(out64[0]), why);
  }

  /** A further stream; its work is ordered only with itself and what it waits for. */
  createStream(label = "stream"): Stream {
    this.guard();
    check(
      native().fb_stream_create(this.#handle as never, addressOf(out64) as never),
      "create stream",
    );
    return new Stream(this, Number(out64[0]), label);
  }

  /** An event for this device's streams. */
  createEvent(label = "event"): Event {
    this.guard();
    check(
      native().fb_event_create(this.#handle as never, addressOf(out64) as never),
      "create event",
    );
    return new Event(this, Number(out64[0]), label);
  }

  /**
   * Device memory of `bytes` bytes under a label that memory reports use. `pinned` memory is host
   * memory that the device reads. Errors: OutOfMemoryError, DeviceError when the pool is frozen.
   */
  alloc(bytes: number, label: string, pinned = false): Memory {
    this.guard();
    requireInteger("bytes", bytes, 0);
    const out = addressOf(out64) as never;
    const size = Math.max(bytes, 1);
    const status = native().fb_memory_alloc(this.#handle as never, size, pinned ? 1 : 0, out);
    if (status === Status.outOfMemory) throw this.#outOfMemory(status, label);
    check(status, label);
    const address = Number(out64[0]);
    this.#blocks.set(address, { label, bytes });
    return new Memory(this, address, bytes, label);
  }

  /** Queues a copy of host bytes to device memory, through pinned memory: `bytes` is free at once. */
  upload(target: number, bytes: Uint8Array): void {
    if (bytes.byteLength === 0) return;
    using staging = this.alloc(bytes.byteLength, "upload staging", true);
    new Uint8Array(staging.hostBytes()).set(bytes);
    this.stream.copy(target, staging.address, bytes.byteLength);
  }

  /** Gives a block back once all that is queued now is through. For {@link Memory}. */
  free(address: number): void {
    if (this.disposed || !this.#blocks.has(address)) return;
    if (this.#captured !== undefined) {
      this.#held.push(address);
      return;
    }
    this.#blocks.delete(address);
    native().fb_memory_free(this.#handle as never, address);
  }

  /** Bytes in use, kept for reuse and allowed, with the largest owners first. */
  memoryStats(): MemoryStats {
    this.guard();
    check(
      native().fb_memory_stats(this.#handle as never, addressOf(out3) as never),
      "memory stats",
    );
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
    check(native().fb_memory_freeze(this.#handle as never, frozen ? 1 : 0), "freeze memory");
  }

  /** A kernel by name; looked up once. Errors: DeviceError when there is none. */
  kernel(name: string): Kernel {
    this.guard();
    const known = this.#kernels.get(name);
    if (known !== undefined) return known;
    const status = native().fb_kernel_find(
      this.#handle as never,
      addressOf(new TextEncoder().encode(`${name}\0`)) as never,
      addressOf(out64) as never,
      addressOf(out32) as never,
    );
    check(status, `kernel ${name}`);
    const kernel = { name, handle: Number(out64[0]), paramsBytes: out32[0]! };
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
    const status = native().fb_launch(
      stream.handle as never,
      kernel.handle as never,
      params.view as never,
      kernel.paramsBytes,
      grid,
    );
    if (status !== Status.ok) check(status, kernel.name);
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
    check(native().fb_capture_begin(stream.handle as never), label);
    const checks: ReplayCheck[] = (this.#captured = []);
    try {
      const result: unknown = body();
      if (result instanceof Promise) {
        throw new OptionError("body", "an async function", "synchronous", "await before capture.");
      }
    } catch (error) {
      this.#endCapture(stream, checks, label)[Symbol.dispose]();
      throw error;
    }
    return this.#endCapture(stream, checks, label);
  }

  /** True while {@link capture} runs its body. */
  get capturing(): boolean {
    return this.#captured !== undefined;
  }

  /** Adds a check that every replay of the graph being captured makes first. */
  onReplay(replayCheck: ReplayCheck): void {
    this.#captured?.push(replayCheck);
  }

  /** The failure that stopped this device, if any. */
  failure(): DeviceError | undefined {
    const status = native().fb_device_failure(this.#handle as never);
    if (status === Status.ok) return undefined;
    return failureOf(status, "cpu device") as DeviceError;
  }

  /** Waits for all queued work without blocking, then frees the device and what it owns. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.disposed) return;
    await this.stream.done().catch(() => {});
    this[Symbol.dispose]();
  }

  protected override release(): void {
    this.notifier.close();
    native().fb_device_close(this.#handle as never);
    this.#blocks.clear();
  }

  #endCapture(stream: Stream, checks: ReplayCheck[], label: string): Graph {
    this.#captured = undefined;
    check(native().fb_capture_end(stream.handle as never, addressOf(out64) as never), label);
    const held = this.#held;
    this.#held = [];
    return new Graph(Number(out64[0]), checks, label, this, held);
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

function threadsOf(options: DeviceOptions): number {
  const fromEnvironment = process.env["FLASHBUN_THREADS"];
  if (options.threads !== undefined) {
    requireInteger("threads", options.threads, 1, 1024);
    return options.threads;
  }
  if (!fromEnvironment) return Math.max(1, availableParallelism() - 1);
  requireInteger("FLASHBUN_THREADS", Number(fromEnvironment), 1, 1024);
  return Number(fromEnvironment);
}

function levelOf(options: DeviceOptions): number {
  const wanted = options.level ?? (process.env["FLASHBUN_CPU"] || undefined);
  if (wanted === undefined) return -1;
  const level = cpuLevels.indexOf(wanted as CpuLevel);
  if (level >= 0) return level;
  const option = options.level === undefined ? "FLASHBUN_CPU" : "level";
  throw new OptionError(option, wanted, `one of ${cpuLevels.join(", ")}`, "name one of them.");
}
