import { fillNormal } from "../tensor/random.ts";
import { Tensor } from "../tensor/tensor.ts";
import { Weight } from "../tensor/weight.ts";
import type { Range } from "../weights/slice.ts";
import type { LatentHeads } from "./latent.ts";
import type { LatentShape } from "./shape.ts";
import type { LoadProgress } from "./load-count.ts";
import { WeightSource } from "./weight-source.ts";

/** Tensors that not all models have, by `model_type`: biases of Qwen 2, norms of Qwen 3. */
const extras: Readonly<Record<string, RegExp>> = {
  qwen2: /\.[qkv]_proj\.bias$/,
  gemma3_text: /\.[qk]_norm\.weight$/,
  qwen3: /\.[qk]_norm\.weight$/,
  qwen3_moe: /\.[qk]_norm\.weight$/,
};

/**
 * Random weights instead of a checkpoint's, made on the device: normal numbers of deviation
 * 1 / sqrt(inputs), so that activations stay of one size; norms are 1.
 */
export class RandomSource extends WeightSource {
  override below(prefix: string): RandomSource {
    const { device, checkpoint, dtype, done } = this;
    return new RandomSource(device, checkpoint, dtype, `${this.prefix}${prefix}.`, done);
  }

  override has(name: string): boolean {
    return this.#hasExtra(name, "weight");
  }

  override vector(name: string, length: number): Tensor {
    const ones = new Float32Array(length).fill(1);
    return this.own(Tensor.from(this.device, ones, [length], "f32", this.nameOf(name)));
  }

  override biasIfThere(outputs: Readonly<Record<string, number>>): Tensor | undefined {
    if (!this.#hasExtra(Object.keys(outputs)[0], "bias")) return undefined;
    const count = rowsOf(outputs);
    return this.own(Tensor.zeros(this.device, [count], "f32", "biases"));
  }

  override table(name: string, rows: number, columns: number): Tensor {
    return this.#normal([rows, columns], this.nameOf(name));
  }

  override linear(inputs: number, outputs: Readonly<Record<string, number>>): Weight {
    const label = `${this.prefix}${Object.keys(outputs).join(" ")}`;
    return this.noted(Weight.dense(this.#normal([rowsOf(outputs), inputs], label)), outputs);
  }

  override experts(
    count: number,
    _: (expert: number) => string,
    inputs: number,
    outputs: Readonly<Record<string, number>>,
  ): Weight {
    const label = `${this.prefix}${Object.keys(outputs).join(" ")} of experts`;
    return Weight.dense(this.#normal([count, rowsOf(outputs), inputs], label));
  }

  override latentHeads(
    name: string,
    heads: number,
    { rank, plain, value }: Omit<LatentShape, "turned">,
  ): LatentHeads {
    const dense = (shape: number[], part: string) =>
      Weight.dense(this.#normal(shape, `${part} of ${this.nameOf(name)}`));
    return {
      keys: dense([heads, rank, plain], "keys"),
      values: dense([heads, value, rank], "values"),
    };
  }

  override tied(_: string, table: Tensor, [from, to]: Range): Weight {
    return Weight.dense(table.slice(0, from, to));
  }

  override requireAllTaken(): void {}

  override get progress(): LoadProgress {
    return { bytes: this.bytes };
  }

  #hasExtra(name: string, kind: string): boolean {
    return (
      extras[String(this.checkpoint.config["model_type"])]?.test(this.nameOf(name, kind)) ?? false
    );
  }

  #normal(shape: readonly number[], label: string): Tensor {
    const tensor = this.own(Tensor.empty(this.device, shape, this.dtype, label));
    fillNormal(tensor, { seed: this.done.owned.length, deviation: 1 / Math.sqrt(shape.at(-1)!) });
    return tensor;
  }
}

function rowsOf(outputs: Readonly<Record<string, number>>): number {
  return Object.values(outputs).reduce((sum, rows) => sum + rows, 0);
}
