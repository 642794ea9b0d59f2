import type { Model } from "../models/model.ts";
import type { Step } from "../serve/step.ts";

/** Chooses a token for each row of logits that a step left. */
export class Sampler {
  readonly #model: Model;
  readonly #chosen: Int32Array;

  constructor(model: Model, maxBatch: number) {
    this.#model = model;
    this.#chosen = new Int32Array(maxBatch);
  }

  /** A token of each of step.sampled, in their order; waits for the device. */
  async sample({ sampled }: Step): Promise<Int32Array> {
    const { kit, cache } = this.#model;
    await cache.device.stream.done();
    const logits = kit.logitsOf(sampled.length).toFloat64Array();
    const { vocabulary } = this.#model.shape;
    for (let row = 0; row < sampled.length; row++) {
      let best = 0;
      for (let i = 1; i < vocabulary; i++)
        if (logits[row * vocabulary + i] > logits[row * vocabulary + best]) best = i;
      this.#chosen[row] = best;
    }
    return this.#chosen;
  }
}
