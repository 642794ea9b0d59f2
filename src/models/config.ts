import type { RopeOptions } from "../ops/rope.ts";
import { CheckpointError } from "../weights/errors.ts";
import { type Fields, ropeScaling } from "./rope-config.ts";

/** Reads fields of a config.json, and says which are missing or odd. */
export class Config implements Fields {
  constructor(
    readonly path: string,
    readonly fields: Readonly<Record<string, unknown>>,
  ) {}

  /** What Hugging Face calls the architecture, as in `llama`. */
  get modelType(): string {
    const { model_type: type } = this.fields;
    if (typeof type === "string") return type;
    throw this.wrong("model_type", "the name of an architecture");
  }

  /** A positive integer; `otherwise` where the field is absent or null. */
  count(field: string, otherwise?: number): number {
    const value = this.fields[field] ?? otherwise;
    if (Number.isSafeInteger(value) && (value as number) > 0) return value as number;
    throw this.wrong(field, "a positive integer");
  }

  /** A positive number; `otherwise` where the field is absent or null. */
  positive(field: string, otherwise?: number): number {
    const value = this.fields[field] ?? otherwise;
    if (typeof value === "number" && value > 0 && value < Infinity) return value;
    throw this.wrong(field, "a positive number");
  }

  /** True or false; absent is `otherwise`. */
  flag(field: string, otherwise: boolean): boolean {
    const value = this.fields[field] ?? otherwise;
    if (typeof value === "boolean") return value;
    throw this.wrong(field, "true or false");
  }

  /** Throws a CheckpointError unless a field, or `otherwise` in its absence, is one of these. */
  requireOneOf(field: string, allowed: readonly string[], otherwise: string): void {
    const value = this.fields[field] ?? otherwise;
    if (!allowed.includes(value as string)) throw this.wrong(field, `one of ${allowed.join(", ")}`);
  }

  /** Positions that the model was made for, or is stretched to by YaRN. */
  contextTokens(): number {
    const { rope_parameters: newer, rope_scaling: older } = this.fields;
    const given = (newer ?? older ?? {}) as Record<string, unknown>;
    const own = this.count("max_position_embeddings");
    if ((given["rope_type"] ?? given["type"]) !== "yarn") return own;
    const original = Number(given["original_max_position_embeddings"] ?? own);
    return Math.max(own, Math.floor(original * Number(given["factor"])) || 0);
  }

  /** Keys before a query that it sees in layers with a window; -1: all. */
  windowLeft(): number {
    const { sliding_window: window, use_sliding_window: used } = this.fields;
    // Qwen's windows begin at some layer, which nothing here knows.
    if (used === true) throw this.wrong("use_sliding_window", "false");
    const hasWindow = ["mistral", "mixtral", "phi3"].includes(this.modelType);
    if (!hasWindow || window === undefined || window === null) return -1;
    return this.count("sliding_window") - 1;
  }

  /** The rotation of positions, in the manner of older and of newer configs. */
  rope(headDim: number): RopeOptions {
    const { rope_parameters: newer, rope_scaling: older } = this.fields;
    const given = new Config(this.path, (newer ?? older ?? {}) as Record<string, unknown>);
    const theta = given.fields["rope_theta"] ?? this.positive("rope_theta", 10_000);
    const part = given.positive("partial_rotary_factor", this.positive("partial_rotary_factor", 1));
    const dim = this.count("rotary_dim", Math.floor(headDim * part));
    const rope: RopeOptions = { theta: theta as number };
    if (dim !== headDim) rope.dim = dim;
    const scaling = ropeScaling(this, given);
    return scaling === undefined ? rope : { ...rope, scaling };
  }

  /** The same configuration with other fields beside or instead of its own. */
  with(fields: Readonly<Record<string, unknown>>): Config {
    return new Config(this.path, { ...this.fields, ...fields });
  }

  /** An error about a field. */
  wrong(field: string, allowed: string): CheckpointError {
    const value = JSON.stringify(this.fields[field]) ?? "missing";
    const fix = "use a model of a supported family, or mend its configuration.";
    return new CheckpointError(this.path, `${field} is ${value}, not ${allowed}`, fix);
  }
}
