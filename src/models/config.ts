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

  /** Keys before a query that it sees in layers with a window; -1: all. */
  windowLeft(): number {
    const { sliding_window: window, use_sliding_window: used } = this.fields;
    if (window === undefined || window === null || used === false) return -1;
    // Qwen's windows begin at some layer, which nothing here knows.
    if (used === true) throw this.wrong("use_sliding_window", "false");
    return this.count("sliding_window") - 1;
  }

  /** The rotation of positions, in the manner of older and of newer configs. */
  rope(headDim: number): RopeOptions {
    const { rope_parameters: newer, rope_scaling: older } = this.fields;
    const given = new Config(this.path, (newer ?? older ?? {}) as Record<string, unknown>);
    const theta = given.fields["rope_theta"] ?? this.positive("rope_theta", 10_000);
    const part = this.positive("partial_rotary_factor", 1);
    const rope: RopeOptions = { theta: theta as number };
    if (part !== 1) rope.dim = Math.floor(headDim * part);
    const scaling = ropeScaling(this, given);
    return scaling === undefined ? rope : { ...rope, scaling };
  }

  /** An error about a field. */
  wrong(field: string, allowed: string): CheckpointError {
    const value = JSON.stringify(this.fields[field]) ?? "missing";
    const fix = "use a model of a supported family, or mend its configuration.";
    return new CheckpointError(this.path, `${field} is ${value}, not ${allowed}`, fix);
  }
}
