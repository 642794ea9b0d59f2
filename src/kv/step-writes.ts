/**
 * Which layers hold the new tokens of the step that was reserved last: only whole tokens may be
 * built upon.
 */
export class StepWrites {
  /** The step of which a layer lacks the new tokens; -1: none. */
  step = -1;
  /** By layer, the step that it was written in last. */
  readonly #written: Int32Array;
  #missing = 0;

  /** @param layers that write each step; 0: nobody says what is written, and all counts as so */
  constructor(layers: number) {
    this.#written = new Int32Array(layers).fill(-1);
  }

  /** Starts a step of so many new tokens. */
  begin(step: number, tokens: number): void {
    this.#missing = this.#written.length;
    this.step = tokens > 0 && this.#missing > 0 ? step : -1;
  }

  /** Notes that a layer holds the step's new tokens. */
  add(layer: number): void {
    if (this.step < 0 || this.#written[layer] === this.step) return;
    this.#written[layer] = this.step;
    if (--this.#missing === 0) this.step = -1;
  }

  /** Whether a layer holds all tokens that were reserved. */
  has(layer: number): boolean {
    return this.step < 0 || this.#written[layer] === this.step;
  }

  /** Ends the step: no token of it is lacking any more, as it was given back, or written. */
  end(): void {
    this.step = -1;
  }
}
