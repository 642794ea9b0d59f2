import { OptionError } from "../errors.ts";
import { out, valueOf } from "../ffi/foreign.ts";
import { native } from "../ffi/library.ts";
import { check, Status } from "../ffi/status.ts";
import type { EventHandle, StreamHandle } from "../ffi/symbols.ts";
import { requireInteger, requireOptions, requireText } from "../require.ts";
import { type Context, requireDevice } from "./context.ts";
import { Owner } from "./owner.ts";

const streamOut = out<StreamHandle>();
const eventOut = out<EventHandle>();
const counts = new Float64Array(new ArrayBuffer(16));
const milliseconds = new Float64Array(new ArrayBuffer(8));

/** Throws unless `value` is a stream of the device. Errors: OptionError, DisposedError. */
export function requireStream(
  value: Stream | undefined,
  device: Context,
  option = "stream",
): asserts value is Stream {
  const allowed = `a stream of ${device.label}`;
  if (typeof value?.waitFor !== "function")
    throw new OptionError(option, value, allowed, "make one by device.createStream.");
  value.guard();
  if (value.device === device) return;
  throw new OptionError(option, value.label, allowed, "use a stream of the same device.");
}

/** An ordered queue of work on a device: copies, launches and events run in the order they came. */
export class Stream extends Owner {
  /** @internal What belongs to this stream's work, and goes with it. */
  readonly owned: Disposable[] = [];

  /** @internal */
  constructor(
    readonly device: Context,
    /** @internal Native handle. */
    readonly handle: StreamHandle,
    label: string,
    /** @internal */
    readonly borrowed = false,
  ) {
    super(label);
  }

  /** A new stream of a device. Errors: DeviceError. */
  static create(device: Context, label: string): Stream {
    requireDevice(device);
    requireText("label", label);
    check(native().fb_stream_create(device.handle, streamOut), "create stream");
    return new Stream(device, valueOf(streamOut), label);
  }

  /**
   * Takes a stream that another library owns: a native handle of this library's CPU device, or a
   * CUstream of the GPU's primary context. Disposing it leaves the foreign stream alone. Errors:
   * OptionError, CudaError.
   */
  static wrap(device: Context, handle: number): Stream {
    requireDevice(device);
    requireInteger("handle", handle, 1);
    const label = `stream ${handle.toString(16)}`;
    check(native().fb_stream_wrap(device.handle, handle, streamOut), label);
    return new Stream(device, valueOf(streamOut), label, device.kind === "cpu");
  }

  /**
   * Resolves when all that is queued now is done, without blocking the event loop. Rejects with
   * the device's first failure, or with the signal's reason.
   */
  done(options: { signal?: AbortSignal } = {}): Promise<void> {
    requireOptions("options", options, ["signal"]);
    const { signal } = options;
    if (signal !== undefined && !(signal instanceof AbortSignal))
      throw new OptionError("signal", signal, "an AbortSignal", "pass controller.signal.");
    this.guard();
    check(native().fb_stream_notify(this.handle, counts), this.label);
    return this.device.notifier.wait(this, counts[0], signal);
  }

  /** Blocks until all that is queued now is done; throws the device's first failure. */
  wait(): void {
    this.guard();
    check(native().fb_stream_wait(this.handle), this.label);
  }

  /** Operations completed so far. */
  completed(): number {
    this.guard();
    return this.completedNow();
  }

  /** @internal As completed, of a disposed stream that somebody still waits for too. */
  completedNow(): number {
    native().fb_stream_query(this.handle, counts);
    return counts[1];
  }

  /** True when nothing is queued or running. */
  get idle(): boolean {
    this.guard();
    native().fb_stream_query(this.handle, counts);
    return counts[0] === counts[1];
  }

  /** Later work of this stream starts after what `event` recorded last. */
  waitFor(event: Event): void {
    this.guard();
    requireEvent("event", event, this.device);
    check(
      native().fb_event_wait(event.handle, this.handle),
      `${this.label} waits for ${event.label}`,
    );
  }

  /** Queues a copy of `bytes` from one address to another. */
  copy(target: number, source: number, bytes: number): void {
    this.guard();
    requireInteger("target", target, 1);
    requireInteger("source", source, 1);
    requireInteger("bytes", bytes, 0);
    check(native().fb_memory_copy(this.handle, target, source, bytes), "copy");
  }

  /** Queues setting `bytes` bytes to `byte`. */
  fill(target: number, byte: number, bytes: number): void {
    this.guard();
    requireInteger("target", target, 1);
    requireInteger("byte", byte, 0, 255);
    requireInteger("bytes", bytes, 0);
    check(native().fb_memory_fill(this.handle, target, byte, bytes), "fill");
  }

  /** @internal */
  override toString(): string {
    return `${super.toString()} on ${this.device.label}`;
  }

  /** @internal Throws DisposedError when the stream or its device was disposed. */
  override guard(): void {
    // Each launch comes by: a call of super is slower than to look first.
    if (this.disposed) super.guard();
    this.device.guard();
  }

  /** @internal Gives the native stream back, once no one waits for it. For the notifier. */
  destroy(): void {
    if (this.borrowed || this.device.disposed) return;
    native().fb_stream_destroy(this.handle);
  }

  protected override release(): void {
    for (const owned of this.owned.splice(0)) owned[Symbol.dispose]();
    if (!this.device.notifier.isWaitedFor(this)) this.destroy();
  }
}

function requireEvent(option: string, value: Event | undefined, device: Context): void {
  if (typeof value?.elapsedMs !== "function")
    throw new OptionError(option, value, "an event", "make one by device.createEvent.");
  value.guard();
  if (value.device === device) return;
  throw new OptionError(option, value.label, `of ${device.label}`, "use its own events.");
}

/** A mark in a stream that can be asked about, timed and waited for by other streams. */
export class Event extends Owner {
  #stream: Stream | undefined;

  /** @internal */
  constructor(
    readonly device: Context,
    /** @internal Native handle. */
    readonly handle: EventHandle,
    label: string,
  ) {
    super(label);
  }

  /** A new event of a device. Errors: DeviceError. */
  static create(device: Context, label: string): Event {
    requireDevice(device);
    requireText("label", label);
    check(native().fb_event_create(device.handle, eventOut), "create event");
    return new Event(device, valueOf(eventOut), label);
  }

  /** Marks the end of what `stream` holds now. */
  record(stream: Stream): void {
    this.guard();
    requireStream(stream, this.device);
    // Records are reached in their order: one on another stream waits for the one before.
    if (this.#stream !== undefined && this.#stream !== stream && !this.reached) {
      stream.waitFor(this);
    }
    this.#stream = stream;
    check(native().fb_event_record(this.handle, stream.handle), this.label);
  }

  /** True when the last record was reached (or none was made). */
  get reached(): boolean {
    this.guard();
    return native().fb_event_query(this.handle) !== Status.notReady;
  }

  /** Milliseconds from this event to `later`; both must have been reached. */
  elapsedMs(later: Event): number {
    this.guard();
    requireEvent("later", later, this.device);
    const status = native().fb_event_elapsed(this.handle, later.handle, milliseconds);
    check(status, `${this.label} to ${later.label}`);
    return milliseconds[0];
  }

  /** @internal */
  override toString(): string {
    return `${super.toString()} on ${this.device.label}`;
  }

  /** @internal Throws DisposedError when the event or its device was disposed. */
  override guard(): void {
    super.guard();
    this.device.guard();
  }

  protected override release(): void {
    if (!this.device.disposed) native().fb_event_destroy(this.handle);
  }
}

/** Later work of `stream` starts after what `other` holds now. */
export function after(stream: Stream, other: Stream): void {
  if (other.disposed || stream.disposed) return;
  using event = Event.create(stream.device, "order of streams");
  event.record(other);
  stream.waitFor(event);
}
