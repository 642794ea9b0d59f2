import { candidatesMost, type LogitParts, logitParts } from "../models/logit-parts.ts";
import { finite, integer, type OptionSchemas, positive } from "../options.ts";

/** How a request's tokens are chosen from the logits. */
export interface SamplingOptions {
  /** Divides the logits; 0 takes the largest. Default: the model's own, else 1. */
  temperature?: number;
  /** Keeps so many of the most probable; 0: all. Default: the model's own, else 0. */
  topK?: number;
  /** Keeps the most probable that together have this probability. Default: the model's, else 1. */
  topP?: number;
  /** Drops those below this share of the largest probability. Default 0. */
  minP?: number;
  /** The same seed gives the same tokens, whatever else runs; default: random. */
  seed?: number;
  /**
   * Logits of tokens that were said or asked are divided by it where above 0, and multiplied where
   * below. Default: the model's own, else 1.
   */
  repetitionPenalty?: number;
  /** Subtracted from the logits of tokens that were generated, -2 to 2. Default 0. */
  presencePenalty?: number;
  /** Subtracted as often as a token was generated, -2 to 2. Default 0. */
  frequencyPenalty?: number;
  /** Added to the logits of tokens by their ids, -100 to 100. */
  logitBias?: Readonly<Record<number, number>>;
  /** Log-probabilities of each token and of so many of the likeliest; -1, the default: none. */
  logprobs?: number;
}

/** What each of them may be. */
export const samplingSchemas: OptionSchemas = {
  temperature: finite(0, 100),
  topK: integer(0),
  topP: { ...positive, maximum: 1, description: "a number above 0, at most 1" },
  minP: finite(0, 1),
  seed: integer(0, Number.MAX_SAFE_INTEGER),
  repetitionPenalty: { ...positive, maximum: 100, description: "a number above 0, at most 100" },
  presencePenalty: finite(-2, 2),
  frequencyPenalty: finite(-2, 2),
  logitBias: {
    type: "object",
    additionalProperties: { type: "number", minimum: -100, maximum: 100 },
    propertyNames: { pattern: "^\\d{1,7}$" },
    description: "an object of numbers from -100 to 100 by token id",
  },
  logprobs: integer(-1, 20),
};

/** Whether a request's logits are changed before a token is chosen. */
export function adjusts(sampling: Required<SamplingOptions>): boolean {
  const { repetitionPenalty, presencePenalty, frequencyPenalty, logitBias } = sampling;
  // Looked at for each row of each step.
  for (const _ in logitBias) return true;
  return repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0;
}

/**
 * What of the logits that ranks share the choice of a request's tokens needs. The largest alone
 * decide what is greedy, or within a top-k that they hold; what changes logits, or looks at more of
 * them, needs all.
 */
export function partsOf(sampling: Required<SamplingOptions>, hasGrammar: boolean): LogitParts {
  const { temperature, topK, logprobs } = sampling;
  const isWithin = temperature === 0 || (topK > 0 && topK <= candidatesMost);
  if (hasGrammar || adjusts(sampling) || !isWithin) return "all";
  return logprobs < 0 ? "largest" : "sums";
}

/** What requests need that are in one step. */
export function mostOf(parts: readonly LogitParts[]): LogitParts {
  return parts.reduce(
    (most, each) => (logitParts.indexOf(each) > logitParts.indexOf(most) ? each : most),
    logitParts[0] as LogitParts,
  );
}

/** What a request says, else what the model's files say, else the defaults. */
export function samplingFor(
  options: SamplingOptions,
  own: Readonly<SamplingOptions>,
): Required<SamplingOptions> {
  return {
    temperature: 1,
    topK: 0,
    topP: 1,
    minP: 0,
    seed: Math.floor(Math.random() * Number.MAX_SAFE_INTEGER),
    repetitionPenalty: 1,
    presencePenalty: 0,
    frequencyPenalty: 0,
    logitBias: {},
    logprobs: -1,
    ...own,
    ...options,
  };
}
