import { join } from "node:path";
import { OptionError } from "../errors.ts";
import { CheckpointError } from "./errors.ts";
import { openSafetensors, readJson } from "./safetensors.ts";
import type { StoredTensor } from "./stored.ts";

/** A low-rank adapter on disk: what is added to the linear layers of a model, by their names. */
export interface AdapterFile {
  readonly path: string;
  /** `MODULE.lora_A.weight` [rank, inputs] and `MODULE.lora_B.weight` [outputs, rank]. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly config: AdapterConfig;
}

/** What adapter_config.json says of each linear layer. */
export interface AdapterConfig {
  /** The names in target_modules, where it is a list. */
  readonly targets: readonly string[];
  /** Whether it says that a layer of that name is adapted. */
  adapts(module: string): boolean;
  rankOf(module: string): number;
  /** What the product of both tensors is multiplied by. */
  scaleOf(module: string): number;
}

/**
 * Opens an adapter as PEFT saves it (huggingface/peft, LoraConfig; arXiv 2106.09685): a folder with
 * adapter_config.json and adapter_model.safetensors. Errors: OptionError, CheckpointError, also for
 * what PEFT knows beside plain matrices of low rank.
 */
export function openAdapter(folder: string): AdapterFile {
  if (typeof folder !== "string" || folder === "" || folder.includes("\0"))
    throw new OptionError("adapter", folder, "a folder", "give where PEFT saved it.");
  const configPath = join(folder, "adapter_config.json");
  const config = new PeftConfig(configPath, readJson(configPath));
  const path = join(folder, "adapter_model.safetensors");
  const stored = [...openSafetensors(path)];
  if (stored.length === 0)
    throw new CheckpointError(path, "it has no tensors", "save the adapter again.");
  return { path, config, tensors: new Map(stored.map((each) => namedIn(path, ...each))) };
}

/** What in a tensor's name says that it is of a kind that is not added here. */
const kinds: readonly [RegExp, string][] = [
  [/lora_magnitude_vector/, "DoRA's magnitudes"],
  [/lora_embedding_[AB]/, "an adapter of an embedding"],
  [/(lora_[AB]\.bias|\.bias)$/, "a bias"],
];
const peftName = /^base_model\.model\.(.+\.lora_[AB]\.weight)$/;

function namedIn(path: string, name: string, stored: StoredTensor): [string, StoredTensor] {
  const kind = kinds.find(([pattern]) => pattern.test(name))?.[1] ?? "no matrix of low rank";
  const known = peftName.exec(name);
  const fix = "use an adapter of lora_A and lora_B for linear layers alone.";
  if (known === null) throw new CheckpointError(path, `tensor ${name} is ${kind}`, fix);
  if (["F32", "F16", "BF16"].includes(stored.format.name)) return [known[1], stored];
  throw new CheckpointError(path, `tensor ${name} is ${stored.format.name}`, "save it in F32.");
}

/** Fields that change what is computed, and what they are where nothing is changed. */
const plain: Readonly<Record<string, readonly unknown[]>> = {
  peft_type: ["LORA"],
  use_dora: [false],
  bias: ["none"],
  lora_bias: [false],
  modules_to_save: [null, []],
  trainable_token_indices: [null, [], {}],
  target_parameters: [null, []],
  layer_replication: [null, []],
  layers_pattern: [null, [], "", "layers", ["layers"]],
  use_qalora: [false],
  alora_invocation_tokens: [null],
  arrow_config: [null],
};

/**
 * Reads the fields of an adapter_config.json. `fan_in_fan_out` says how a base model of GPT-2's
 * kind is stored; both tensors lie as ever, and the models here are stored in one way.
 */
class PeftConfig implements AdapterConfig {
  readonly targets: readonly string[];
  readonly #isTarget: (module: string) => boolean;
  readonly #isExcluded: (module: string) => boolean;
  readonly #layers: readonly number[] | undefined;
  readonly #isRankStabilised: boolean;
  readonly #rank: number;
  readonly #alpha: number;
  readonly #ranks: readonly [RegExp, number][];
  readonly #alphas: readonly [RegExp, number][];

  constructor(
    private readonly path: string,
    private readonly fields: Readonly<Record<string, unknown>>,
  ) {
    for (const [field, allowed] of Object.entries(plain)) {
      const value = fields[field] ?? allowed[0];
      if (!allowed.some((each) => JSON.stringify(each) === JSON.stringify(value)))
        throw this.#wrong(field, `${JSON.stringify(allowed[0])}: nothing else is computed here`);
    }
    for (const field of ["use_rslora", "fan_in_fan_out"])
      if (typeof (fields[field] ?? false) !== "boolean") throw this.#wrong(field, "true or false");
    this.#isRankStabilised = fields["use_rslora"] === true;
    this.#rank = this.#checked("r", fields["r"], isRank);
    this.#alpha = this.#checked("lora_alpha", fields["lora_alpha"], isScale);
    this.#ranks = this.#patterns("rank_pattern", isRank);
    this.#alphas = this.#patterns("alpha_pattern", isScale);
    const { target_modules: given, layers_to_transform: layers } = fields;
    this.targets = Array.isArray(given) ? (given as string[]) : [];
    this.#isTarget = this.#modules("target_modules") ?? (() => false);
    this.#isExcluded = this.#modules("exclude_modules") ?? (() => false);
    if (layers === null || layers === undefined) return;
    this.#layers = Array.isArray(layers) ? layers : [layers];
    if (!this.#layers.every(Number.isSafeInteger))
      throw this.#wrong("layers_to_transform", "a list of whole numbers");
  }

  adapts(module: string): boolean {
    const layer = /\.layers\.(\d+)\./.exec(module)?.[1];
    if (this.#layers?.includes(Number(layer)) === false) return false;
    return this.#isTarget(module) && !this.#isExcluded(module);
  }

  rankOf(module: string): number {
    return this.#ranks.find(([pattern]) => pattern.test(module))?.[1] ?? this.#rank;
  }

  scaleOf(module: string): number {
    const alpha = this.#alphas.find(([pattern]) => pattern.test(module))?.[1] ?? this.#alpha;
    const rank = this.rankOf(module);
    return alpha / (this.#isRankStabilised ? Math.sqrt(rank) : rank);
  }

  /** Which modules a field means: the ends of names in a list, or all of a name by a pattern. */
  #modules(field: string): ((module: string) => boolean) | undefined {
    const value = this.fields[field] ?? undefined;
    if (value === undefined) return undefined;
    if (value === "all-linear") return () => true;
    if (typeof value === "string") {
      const pattern = this.#pattern(field, value);
      return (module) => pattern.test(module);
    }
    if (!Array.isArray(value) || !value.every((name) => typeof name === "string"))
      throw this.#wrong(field, "a list of names, or a pattern");
    return (module) => value.some((name) => module === name || module.endsWith(`.${name}`));
  }

  /** Numbers for modules of which some patterns match the end of a name. */
  #patterns(field: string, isAllowed: (value: unknown) => boolean): [RegExp, number][] {
    const value = this.fields[field] ?? {};
    if (typeof value !== "object" || Array.isArray(value))
      throw this.#wrong(field, "an object of numbers by name");
    return Object.entries(value).map(([name, number]) => [
      this.#pattern(field, `(.*\\.)?(${name})`),
      this.#checked(`${field}.${name}`, number, isAllowed),
    ]);
  }

  #pattern(field: string, text: string): RegExp {
    try {
      return new RegExp(`^(?:${text})$`);
    } catch {
      throw this.#wrong(field, "made of patterns that JavaScript reads, too");
    }
  }

  #checked(field: string, value: unknown, isAllowed: (value: unknown) => boolean): number {
    if (isAllowed(value)) return value as number;
    const allowed = isAllowed === isRank ? "a whole number above 0" : "a number";
    throw this.#wrong(field, allowed, value);
  }

  #wrong(field: string, allowed: string, value = this.fields[field]): CheckpointError {
    const given = JSON.stringify(value) ?? "missing";
    const fix = "use an adapter of plain LoRA, or mend its configuration.";
    return new CheckpointError(this.path, `${field} is ${given}, not ${allowed}`, fix);
  }
}

function isRank(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) > 0;
}

function isScale(value: unknown): boolean {
  return typeof value === "number" && Number.isFinite(value);
}
