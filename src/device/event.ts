import { OptionError } from "../errors.ts";
import { addressOf, native } from "../ffi/library.ts";
import { check, Status } from "../ffi/status.ts";
import type { Device } from "./device.ts";
import { Owner } from "./owner.ts";
import type { Stream } from "./stream.ts";

const milliseconds = new Float64Array(new ArrayBuffer(8));

/** A mark in a stream that can be asked about, timed and waited for by other streams. */
export class Event extends Owner {
  #stream: Stream | undefined;

  constructor(
    readonly device: Device,
    /** Native handle. */
    readonly handle: number,
    label = "event",
  ) {
    super(label);
  }

  /** Marks the end of what `stream` holds now. */
  record(stream: Stream): void {
    this.guard();
    stream.guard();
    if (stream.device !== this.device) {
      throw new OptionError("stream", stream.label, "of the event's device", "use its own events.");
    }
    // Records are reached in their order: one on another stream waits for the one before.
    if (this.#stream !== undefined && this.#stream !== stream && !this.reached) {
      stream.waitFor(this);
    }
    this.#stream = stream;
    check(native().fb_event_record(this.handle as never, stream.handle as never), this.label);
  }

  /** True when the last record was reached (or none was made). */
  get reached(): boolean {
    this.guard();
    return native().fb_event_query(this.handle as never) !== Status.notReady;
  }

  /** Milliseconds from this event to `later`; both must have been reached. */
  elapsedMs(later: Event): number {
    this.guard();
    later.guard();
    const out = addressOf(milliseconds);
    const status = native().fb_event_elapsed(
      this.handle as never,
      later.handle as never,
      out as never,
    );
    check(status, `${this.label} to ${later.label}`);
    return milliseconds[0]!;
  }

  /** Throws DisposedError when the event or its device was disposed. */
  override guard(): void {
    super.guard();
    this.device.guard();
  }

  protected override release(): void {
    if (!this.device.disposed) native().fb_event_destroy(this.handle as never);
  }
}
