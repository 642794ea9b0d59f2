import type { Device } from "../device/device.ts";
import { Owner } from "../device/owner.ts";
import { GrowingBuffer, PinnedRing } from "../device/ring.ts";
import { after, type Stream } from "../device/stream.ts";
import { PlanError } from "../errors.ts";
import type { Plan } from "../plan/plan.ts";

/**
 * A plan's sections on the device: sent once for each plan, after everything that reads the last
 * ones.
 */
export class PlanSections extends Owner {
  readonly buffer: GrowingBuffer;
  readonly #device: Device;
  readonly #ring: PinnedRing;
  /** What the next upload waits for: the streams that read the sections, first their uploader. */
  readonly #readers: Stream[] = [];
  #generation = -1;

  constructor(device: Device) {
    super("plan sections");
    this.#device = device;
    this.#ring = new PinnedRing(device, "plan upload ring");
    this.buffer = new GrowingBuffer(device, this.label);
  }

  /** Where a plan may be written so that its upload needs no copy, if that is free. */
  get room(): Int32Array | undefined {
    return this.#ring.room;
  }

  /**
   * What is queued on `stream` from now on finds the plan's sections. Errors: PlanError where a
   * capture would have to upload them.
   */
  sync(plan: Plan, stream: Stream): void {
    if (plan.generation !== this.#generation) return this.#upload(plan, stream);
    if (this.#readers.includes(stream) || this.#device.capturing) return;
    after(stream, this.#readers[0]);
    this.#readers.push(stream);
  }

  /** The next plan's upload starts after what `stream` holds then. */
  waitFor(stream: Stream): void {
    if (!this.#readers.includes(stream)) this.#readers.push(stream);
  }

  protected override release(): void {
    this.#ring[Symbol.dispose]();
    this.buffer[Symbol.dispose]();
  }

  #upload(plan: Plan, stream: Stream): void {
    if (this.#device.capturing) {
      throw new PlanError("the plan was not uploaded. Fix: run the step once before the capture.");
    }
    // Other streams may still read the sections of the plan before.
    for (const reader of this.#readers) if (reader !== stream) after(stream, reader);
    this.#readers.length = 0;
    this.#readers.push(stream);
    const { sections } = plan;
    // As large as the array that it did fit, so that a later plan can be written there.
    if (!this.#ring.isNext(sections)) this.#ring.take(sections.length).i32.set(sections);
    this.buffer.ensure(plan.capacityInts * 4);
    this.#ring.upload(stream, this.buffer.address, plan.sectionInts);
    this.#generation = plan.generation;
  }
}
