import type { RopeScaling } from "../ops/rope-scaling.ts";
import type { CheckpointError } from "../weights/errors.ts";

/** Fields of a configuration, read with their checks. */
export interface Fields {
  readonly fields: Readonly<Record<string, unknown>>;
  count(field: string, otherwise?: number): number;
  positive(field: string, otherwise?: number): number;
  wrong(field: string, allowed: string): CheckpointError;
}

/**
 * How a model's rotary frequencies are scaled, from its `rope_scaling` or `rope_parameters`, as
 * transformers' modeling_rope_utils reads them; undefined: they are not.
 */
export function ropeScaling(config: Fields, given: Fields): RopeScaling | undefined {
  const kind = given.fields["rope_type"] ?? given.fields["type"] ?? "default";
  const contextTokens = () => config.count("max_position_embeddings");
  const original = () =>
    given.count(
      "original_max_position_embeddings",
      config.count("original_max_position_embeddings", contextTokens()),
    );
  switch (kind) {
    case "default":
      return undefined;
    case "linear":
      return { kind: "linear", factor: given.positive("factor") };
    case "dynamic":
      return {
        kind: "dynamic",
        factor: given.positive("factor"),
        originalPositions: contextTokens(),
        lengthTokens: contextTokens(),
      };
    case "llama3":
      return {
        kind: "llama3",
        factor: given.positive("factor"),
        lowFrequencyFactor: given.positive("low_freq_factor"),
        highFrequencyFactor: given.positive("high_freq_factor"),
        originalPositions: original(),
      };
    case "yarn":
      return {
        kind: "yarn",
        factor: given.positive("factor"),
        originalPositions: original(),
        ...optional(given, {
          betaFast: "beta_fast",
          betaSlow: "beta_slow",
          truncate: "truncate",
          attentionFactor: "attention_factor",
          mscale: "mscale",
          mscaleAllDim: "mscale_all_dim",
        }),
      };
    case "longrope":
    case "su":
      return {
        kind: "longrope",
        factor: given.positive("factor", contextTokens() / original()),
        originalPositions: original(),
        shortFactors: given.fields["short_factor"] as number[],
        longFactors: given.fields["long_factor"] as number[],
        lengthTokens: contextTokens(),
        ...optional(given, { attentionFactor: "attention_factor" }),
      };
    default: {
      const kinds = "of kind default, linear, dynamic, llama3, yarn or longrope";
      throw config.wrong(
        "rope_parameters" in config.fields ? "rope_parameters" : "rope_scaling",
        kinds,
      );
    }
  }
}

/** Fields that are there, under their names here; what they hold is checked by the attention. */
function optional(given: Fields, names: Readonly<Record<string, string>>): object {
  return Object.fromEntries(
    Object.entries(names).flatMap(([name, field]) => {
      const value = given.fields[field];
      return value === undefined || value === null ? [] : [[name, value]];
    }),
  );
}
