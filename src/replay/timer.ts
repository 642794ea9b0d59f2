import type { Device } from "../device/device.ts";
import type { Event } from "../device/stream.ts";

/** Times a step's kernels by events on the default stream: per layer, inputs and then attention. */
export class LayerTimer implements Disposable {
  readonly #device: Device;
  /** The start, then for each layer the end of its inputs and the end of its attention. */
  readonly #marks: Event[] = [];
  #next = 0;

  constructor(device: Device, layers: number) {
    this.#device = device;
    for (let i = 0; i < 1 + 2 * layers; i++) this.#marks.push(device.createEvent("replay timer"));
  }

  /** Marks the start of a step. */
  start(): void {
    this.#next = 0;
    this.mark();
  }

  /** Marks the end of a layer's inputs, then of its attention. */
  mark(): void {
    this.#marks[this.#next++].record(this.#device.stream);
  }

  /** Milliseconds of all layers' inputs; the stream must be done. */
  get inputMs(): number {
    return this.#sum(0);
  }

  /** Milliseconds of all layers' append and attention. */
  get attentionMs(): number {
    return this.#sum(1);
  }

  [Symbol.dispose](): void {
    for (const mark of this.#marks) mark[Symbol.dispose]();
  }

  #sum(from: number): number {
    let sum = 0;
    for (let i = from; i + 1 < this.#next; i += 2)
      sum += this.#marks[i].elapsedMs(this.#marks[i + 1]);
    return sum;
  }
}
