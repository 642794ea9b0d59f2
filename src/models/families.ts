import type { Config } from "./config.ts";
import type { ModelFamily } from "./family.ts";
import { deepseek } from "./deepseek.ts";
import { gemma } from "./gemma.ts";
import { llama } from "./llama.ts";
import { mixture } from "./mixture.ts";

const families: readonly ModelFamily[] = [
  llama,
  mixture,
  gemma,
  deepseek,
] as readonly ModelFamily[];

/** The family that takes a model. Errors: CheckpointError naming those that there are. */
export function familyOf(config: Config): ModelFamily {
  const found = families.find(({ modelTypes }) => modelTypes.includes(config.modelType));
  if (found !== undefined) return found;
  const known = families.flatMap(({ modelTypes }) => modelTypes);
  throw config.wrong("model_type", `one of ${known.join(", ")}`);
}
