import { OptionError } from "../errors.ts";
import type { ModelShape } from "./types.ts";

/** Attention shapes of published models, and two small ones for tests. */
export const shapes: readonly ModelShape[] = [
  shape("tiny", 2, 4, 2, 32),
  shape("small", 4, 8, 2, 64),
  shape("llama-3.2-1b", 16, 32, 8, 64),
  shape("llama-3.2-3b", 28, 24, 8, 128),
  shape("llama-3.1-8b", 32, 32, 8, 128),
  shape("llama-3.1-70b", 80, 64, 8, 128),
  shape("llama-3.1-405b", 126, 128, 8, 128),
  shape("mistral-7b", 32, 32, 8, 128),
  shape("mistral-7b-v0.1", 32, 32, 8, 128, { windowLeft: 4095 }),
  shape("mixtral-8x7b", 32, 32, 8, 128),
  shape("qwen-2.5-7b", 28, 28, 4, 128),
  shape("qwen-2.5-72b", 80, 64, 8, 128),
  shape("qwen-3-8b", 36, 32, 8, 128),
  shape("gemma-2-9b", 42, 16, 8, 256, { softCap: 50 }),
  shape("phi-3-mini", 32, 32, 32, 96),
  shape("gpt-2", 12, 12, 12, 64),
];

function shape(
  name: string,
  layers: number,
  queryHeads: number,
  kvHeads: number,
  headDim: number,
  extras: Pick<ModelShape, "softCap" | "windowLeft"> = {},
): ModelShape {
  return { name, layers, queryHeads, kvHeads, headDim, ...extras };
}

/**
 * The shape of a model by its name.
 * @throws OptionError naming all shapes when there is none of that name
 */
export function shapeOf(name: string): ModelShape {
  const found = shapes.find((candidate) => candidate.name === name.toLowerCase());
  if (found !== undefined) return found;
  const names = shapes.map((candidate) => candidate.name).join(", ");
  throw new OptionError("shape", name, `one of ${names}`, "pick one of these names.");
}
