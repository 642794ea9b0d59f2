import { OptionError } from "../errors.ts";
import { native } from "../ffi/library.ts";
import { check, Status } from "../ffi/status.ts";
import type { EventHandle } from "../ffi/symbols.ts";
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
    readonly handle: EventHandle,
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
    later.guard();
    const status = native().fb_event_elapsed(this.handle, later.handle, milliseconds);
    check(status, `${this.label} to ${later.label}`);
    return milliseconds[0]!;
  }

  /** Throws DisposedError when the event or its device was disposed. */
  override guard(): void {
    super.guard();
    this.device.guard();
  }

  protected override release(): void {
    if (!this.device.disposed) native().fb_event_destroy(this.handle);
  }
}
