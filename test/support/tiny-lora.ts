/** Random low-rank adapters on disk, and models whose weights have them merged in. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { seeded } from "./random.ts";
import { type SafeTensor, safetensorsBytes } from "./safetensors.ts";
import type { TinyModel } from "./tiny-llama.ts";

/** The linear layers of a Llama's block, and those of one with packed projections. */
export const llamaTargets = ["q", "k", "v", "o", "gate", "up", "down"].map((it) => `${it}_proj`);
export const packedTargets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"];

/** A layer's matrices, and what their product is multiplied by. */
interface Part {
  readonly rank: number;
  readonly scale: number;
  /** [rank, inputs] and [outputs, rank]. */
  readonly a: Float32Array;
  readonly b: Float32Array;
}

/** An adapter of a tiny model, by module. */
export interface TinyAdapter {
  readonly config: Readonly<Record<string, unknown>>;
  readonly parts: ReadonlyMap<string, Part>;
}

/** How an adapter is made, beside its targets. */
export interface TinyAdapterOptions {
  readonly rank?: number;
  readonly alpha?: number;
  /** Scales by the root of the rank. */
  readonly rslora?: boolean;
  /** Of modules that end so, other ranks and alphas. */
  readonly ranks?: Readonly<Record<string, number>>;
  readonly alphas?: Readonly<Record<string, number>>;
  /** Modules that have no part, though their names fit. */
  readonly without?: RegExp;
  /** Other fields of adapter_config.json. */
  readonly fields?: object;
}

/** An adapter that changes a model's answers. */
export function tinyAdapter(
  seed: number,
  { tensors }: TinyModel,
  targets: readonly string[],
  options: TinyAdapterOptions = {},
): TinyAdapter {
  const { rank = 4, alpha = 6, rslora = false, ranks = {}, alphas = {}, fields } = options;
  const random = seeded(seed);
  const parts = new Map<string, Part>();
  const normal = (count: number, spread: number) =>
    Float32Array.from({ length: count }, () => spread * random.normal());
  const named = (numbers: Readonly<Record<string, number>>, module: string, usual: number) =>
    Object.entries(numbers).find(([end]) => module.endsWith(end))?.[1] ?? usual;
  for (const [name, { shape }] of tensors) {
    const module = name.replace(/\.weight$/, "");
    const isTarget = targets.some((target) => module.endsWith(`.${target}`));
    if (!isTarget || name === module || options.without?.test(module)) continue;
    const [outputs, inputs] = shape;
    const own = named(ranks, module, rank);
    const scale = named(alphas, module, alpha) / (rslora ? Math.sqrt(own) : own);
    const a = normal(own * inputs, 1 / Math.sqrt(inputs));
    parts.set(module, { rank: own, scale, a, b: normal(outputs * own, 0.7 / Math.sqrt(own)) });
  }
  const config = {
    peft_type: "LORA",
    r: rank,
    lora_alpha: alpha,
    use_rslora: rslora,
    target_modules: targets,
    rank_pattern: ranks,
    alpha_pattern: alphas,
    bias: "none",
    modules_to_save: null,
    fan_in_fan_out: false,
    ...fields,
  };
  return { config, parts };
}

/** Its tensors as PEFT names them. */
export function adapterTensors({ parts }: TinyAdapter): Record<string, SafeTensor> {
  const tensors: Record<string, SafeTensor> = {};
  const put = (name: string, values: Float32Array, shape: number[]) => {
    const bytes = new Uint8Array(values.buffer);
    tensors[`base_model.model.${name}.weight`] = { dtype: "F32", shape, bytes };
  };
  for (const [module, { rank, a, b }] of parts) {
    put(`${module}.lora_A`, a, [rank, a.length / rank]);
    put(`${module}.lora_B`, b, [b.length / rank, rank]);
  }
  return tensors;
}

/** Writes it as PEFT saves one, or other tensors under its configuration; returns its path. */
export function writeAdapter(
  folder: string,
  adapter: TinyAdapter,
  tensors = adapterTensors(adapter),
): string {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "adapter_config.json"), JSON.stringify(adapter.config));
  writeFileSync(join(folder, "adapter_model.safetensors"), safetensorsBytes(tensors));
  return folder;
}

/** The model with each adapted weight W as W + scale B A. */
export function merged({ shape, tensors }: TinyModel, { parts }: TinyAdapter): TinyModel {
  const made = new Map(tensors);
  for (const [module, { rank, scale, a, b }] of parts) {
    const { shape: sizes, values } = tensors.get(`${module}.weight`)!;
    const [outputs, inputs] = sizes;
    const sums = Float32Array.from(values);
    for (let row = 0; row < outputs; row++)
      for (let column = 0; column < inputs; column++) {
        let sum = 0;
        for (let r = 0; r < rank; r++) sum += b[row * rank + r] * a[r * inputs + column];
        sums[row * inputs + column] += scale * sum;
      }
    made.set(`${module}.weight`, { shape: sizes, values: sums });
  }
  return { shape, tensors: made };
}
