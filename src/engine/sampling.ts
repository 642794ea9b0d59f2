import { finite, integer, type OptionSchemas, positive } from "../options.ts";

/** How a request's tokens are chosen from the logits. */
export interface SamplingOptions {
  /** Divides the logits; 0 takes the largest. Default: the model's own, else 0. */
  temperature?: number;
  /** Keeps so many of the most probable; 0: all. Default: the model's own, else 0. */
  topK?: number;
  /** Keeps the most probable that together have this probability. Default: the model's, else 1. */
  topP?: number;
  /** Drops those below this share of the largest probability. Default 0. */
  minP?: number;
  /** The same seed gives the same tokens, whatever else runs; default: random. */
  seed?: number;
}

/** What each of them may be. */
export const samplingSchemas: OptionSchemas = {
  temperature: finite(0, 100),
  topK: integer(0),
  topP: { ...positive, maximum: 1, description: "a number above 0, at most 1" },
  minP: finite(0, 1),
  seed: integer(0, Number.MAX_SAFE_INTEGER),
};
