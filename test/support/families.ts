/** The small models of test/models/families_golden.py, as files. */
import { join } from "node:path";
import golden from "../models/families-golden.json";
import { type TinyModel, writeFolder } from "./tiny-llama.ts";

/** What transformers makes of a model. */
export interface Golden {
  readonly config: Record<string, unknown> & { model_type: string; tie_word_embeddings: boolean };
  readonly tensors: Readonly<Record<string, number[]>>;
  /** Greedy, after the prompt. */
  readonly tokens: readonly number[];
  /** After the prompt. */
  readonly logits: readonly number[];
}

/** By name. */
export const goldenModels = golden.models as unknown as Readonly<Record<string, Golden>>;

/** Numbers by a tensor's name, as families_golden.py has them. */
function weight(name: string, shape: readonly number[], isCentred: boolean) {
  let seed = 2166136261;
  for (const byte of new TextEncoder().encode(name)) seed = Math.imul(seed ^ byte, 16777619) >>> 0;
  // Gemma multiplies its embedding by the root of its width.
  const factor = isCentred && name.includes("embed") ? 0.15 : 1;
  const count = shape.reduce((product, size) => product * size, 1);
  const [spread, mean] =
    shape.length > 1
      ? [Math.sqrt(24 / shape.at(-1)!), 0]
      : [0.8, name.toLowerCase().endsWith("norm.weight") && !isCentred ? 1 : 0];
  return Float32Array.from({ length: count }, (_, i) => {
    let x = (Math.imul(i, 2654435761) + seed) >>> 0;
    x = Math.imul(x ^ (x >>> 16), 2246822519) >>> 0;
    x = (x ^ (x >>> 13)) >>> 0;
    return (x / 2 ** 32 - 0.5) * spread * factor + mean;
  });
}

/** Writes a model as a folder below another one; returns its path. */
export function writeModel(
  folder: string,
  name: string,
  { config, tensors }: Pick<Golden, "config" | "tensors"> = goldenModels[name],
): string {
  const isCentred = config.model_type.startsWith("gemma");
  const made = Object.entries(tensors).map(([tensor, shape]) => {
    const values = weight(tensor, shape, isCentred);
    return [tensor, { shape, values }] as const;
  });
  const model = { shape: {}, tensors: new Map(made) } as unknown as TinyModel;
  return writeFolder(join(folder, name), model, config);
}
