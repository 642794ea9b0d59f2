import { OptionError } from "../errors.ts";
import {
  checkOptions,
  finite,
  flag,
  integer,
  list,
  oneOf,
  type OptionSchemas,
  positive,
} from "../options.ts";
import { requireNumber } from "../require.ts";

/** Divides positions. */
export interface LinearScaling {
  kind: "linear";
  factor: number;
}

/** Llama 3.1's: keeps short waves, divides the frequencies of long ones, blends between. */
export interface Llama3Scaling {
  kind: "llama3";
  factor: number;
  lowFrequencyFactor: number;
  highFrequencyFactor: number;
  /** Tokens that the model was trained on. */
  originalPositions: number;
}

/**
 * YaRN (arXiv 2309.00071): pairs that turn more than betaFast times in originalPositions are kept,
 * those that turn less than betaSlow times are divided by factor, by a ramp between.
 */
export interface YarnScaling {
  kind: "yarn";
  factor: number;
  /** Tokens that the model was trained on. */
  originalPositions: number;
  /** Default 32. */
  betaFast?: number;
  /** Default 1. */
  betaSlow?: number;
  /** True: the ramp begins and ends at whole pairs. Default true. */
  truncate?: boolean;
  /**
   * Factor of rotated elements, of queries and of keys; default yarnMscale(factor, mscale) /
   * yarnMscale(factor, mscaleAllDim).
   */
  attentionFactor?: number;
  /** Default 1. */
  mscale?: number;
  /**
   * Default 0. Models of DeepSeek multiply the scale of attention, too, by yarnMscale(factor,
   * mscaleAllDim) squared: that is the option `scale`.
   */
  mscaleAllDim?: number;
}

/**
 * LongRoPE (arXiv 2402.13753): each pair's frequency is divided by a factor of its own.
 */
export interface LongRopeScaling {
  kind: "longrope";
  /** Longest length that the model takes / originalPositions: attentionFactor follows from it. */
  factor: number;
  /** Tokens that the model was trained on. */
  originalPositions: number;
  /** For lengths up to originalPositions: one for each rotated pair. */
  shortFactors: readonly number[];
  /** For longer ones. */
  longFactors: readonly number[];
  /**
   * The longest length to be served: it decides between the two, once for all keys. Those of one
   * request have to turn alike, so rates cannot follow its length while it grows.
   */
  lengthTokens: number;
  /**
   * Factor of rotated elements, of queries and of keys; default 1 for factors up to 1, else
   * sqrt(1 + ln(factor) / ln(originalPositions)).
   */
  attentionFactor?: number;
}

/** Dynamic NTK: a base that grows with the length beyond originalPositions. */
export interface DynamicScaling {
  kind: "dynamic";
  factor: number;
  /** Tokens that the model was trained on. */
  originalPositions: number;
  /**
   * The length that the base is for, such as the longest to be served. Cached keys that turned by
   * one base cannot be read by queries of another, so it is one number, not each request's length.
   */
  lengthTokens: number;
}

/** How rotary frequencies, and what they turn, differ from RoFormer's, by kind. */
export type RopeScaling =
  LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling | DynamicScaling;

type Kind = RopeScaling["kind"];

/** What one kind takes, and what it does. */
interface ScalingKind<S extends RopeScaling> {
  schemas: OptionSchemas;
  required: readonly string[];
  /** Throws OptionError unless the numbers, each in its range, go together. */
  check?(scaling: S, theta: number, pairs: number): void;
  /** The scaled frequencies of `pairs` pairs. */
  frequencies(scaling: S, theta: number, pairs: number): Float64Array;
  attentionFactor?(scaling: S): number;
}

const name = "rope.scaling";
const ofAll = {
  kind: oneOf(["linear", "llama3", "yarn", "longrope", "dynamic"]),
  factor: positive,
};
const tokens = integer(1);
const factors = list(positive, "a list of finite numbers above 0");

const kinds: { [K in Kind]: ScalingKind<Extract<RopeScaling, { kind: K }>> } = {
  linear: {
    schemas: ofAll,
    required: ["factor"],
    frequencies: ({ factor }, theta, pairs) => plain(theta, pairs).map((rate) => rate / factor),
  },
  llama3: {
    schemas: {
      ...ofAll,
      lowFrequencyFactor: positive,
      highFrequencyFactor: positive,
      originalPositions: tokens,
    },
    required: ["factor", "lowFrequencyFactor", "highFrequencyFactor", "originalPositions"],
    check({ lowFrequencyFactor: low, highFrequencyFactor: high }) {
      if (low < high) return;
      const allowed = `a number above lowFrequencyFactor (${low})`;
      throw new OptionError(`${name}.highFrequencyFactor`, high, allowed, "Llama has 1 and 4.");
    },
    frequencies(scaling, theta, pairs) {
      const { factor, lowFrequencyFactor: low, highFrequencyFactor: high } = scaling;
      return plain(theta, pairs).map((frequency) => {
        const turns = (scaling.originalPositions * frequency) / (2 * Math.PI);
        const kept = Math.min(Math.max((turns - low) / (high - low), 0), 1);
        return ((1 - kept) * frequency) / factor + kept * frequency;
      });
    },
  },
  yarn: {
    schemas: {
      ...ofAll,
      originalPositions: tokens,
      betaFast: positive,
      betaSlow: positive,
      truncate: flag,
      attentionFactor: positive,
      mscale: finite(0),
      mscaleAllDim: finite(0),
    },
    required: ["factor", "originalPositions"],
    check({ betaFast = 32, betaSlow = 1 }, theta) {
      if (!(theta > 1))
        throw new OptionError(
          "rope.theta",
          theta,
          "above 1 with yarn",
          "models have 10000 and up.",
        );
      if (betaSlow <= betaFast) return;
      const allowed = `at most betaFast (${betaFast})`;
      throw new OptionError(`${name}.betaSlow`, betaSlow, allowed, "the paper has 32 and 1.");
    },
    frequencies: yarnFrequencies,
    attentionFactor({ factor, attentionFactor, mscale = 1, mscaleAllDim = 0 }) {
      return attentionFactor ?? yarnMscale(factor, mscale) / yarnMscale(factor, mscaleAllDim);
    },
  },
  longrope: {
    schemas: {
      ...ofAll,
      originalPositions: integer(2),
      shortFactors: factors,
      longFactors: factors,
      lengthTokens: tokens,
      attentionFactor: positive,
    },
    required: ["factor", "originalPositions", "shortFactors", "longFactors", "lengthTokens"],
    check(scaling, _, pairs) {
      for (const option of ["shortFactors", "longFactors"] as const) {
        const { length } = scaling[option];
        if (length === pairs) continue;
        const fix = "give one for each pair that rotates.";
        throw new OptionError(`${name}.${option}`, `${length} numbers`, `${pairs}`, fix);
      }
    },
    frequencies(scaling, theta, pairs) {
      const { lengthTokens, originalPositions, shortFactors, longFactors } = scaling;
      const by = lengthTokens > originalPositions ? longFactors : shortFactors;
      return plain(theta, pairs).map((frequency, pair) => frequency / by[pair]);
    },
    attentionFactor({ factor, originalPositions, attentionFactor }) {
      if (factor <= 1) return attentionFactor ?? 1;
      return attentionFactor ?? Math.sqrt(1 + Math.log(factor) / Math.log(originalPositions));
    },
  },
  dynamic: {
    schemas: { ...ofAll, originalPositions: tokens, lengthTokens: tokens },
    required: ["factor", "originalPositions", "lengthTokens"],
    frequencies({ factor, originalPositions, lengthTokens }, theta, pairs) {
      const longer = Math.max(lengthTokens / originalPositions, 1);
      const stretch = factor * longer - (factor - 1);
      // With one pair the power is infinite, and the pair's frequency 1 as ever.
      return plain(theta * stretch ** (pairs / (pairs - 1)), pairs);
    },
  },
};

/** Throws OptionError unless the options are those of their kind and go together. */
export function checkScaling(scaling: RopeScaling, theta: number, pairs: number): void {
  if (!Object.hasOwn(kinds, scaling.kind)) {
    const fix = `change ${name}.kind.`;
    throw new OptionError(`${name}.kind`, scaling.kind, ofAll.kind.description, fix);
  }
  const { schemas, required, check } = kindOf(scaling);
  checkOptions(name, schemas, required, scaling, `${name}.`);
  check?.(scaling, theta, pairs);
}

/** Frequencies of so many pairs, in radians per position. */
export function scaledFrequencies(
  scaling: RopeScaling | undefined,
  theta: number,
  pairs: number,
): Float64Array {
  if (scaling === undefined) return plain(theta, pairs);
  return kindOf(scaling).frequencies(scaling, theta, pairs);
}

/** What multiplies rotated elements, of queries and of keys. */
export function attentionFactorOf(scaling: RopeScaling | undefined): number {
  return (scaling && kindOf(scaling).attentionFactor?.(scaling)) ?? 1;
}

/**
 * YaRN's 0.1 * mscale * ln(factor) + 1; 1 for factors up to 1. Errors: OptionError unless both are
 * numbers of 0 or more.
 */
export function yarnMscale(factor: number, mscale = 1): number {
  requireNumber("factor", factor, 0);
  requireNumber("mscale", mscale, 0);
  return factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1;
}

function kindOf(scaling: RopeScaling): ScalingKind<RopeScaling> {
  return kinds[scaling.kind] as ScalingKind<RopeScaling>;
}

function plain(theta: number, pairs: number): Float64Array {
  return Float64Array.from({ length: pairs }, (_, pair) => theta ** (-pair / pairs));
}

function yarnFrequencies(scaling: YarnScaling, theta: number, pairs: number): Float64Array {
  const { factor, originalPositions, betaFast = 32, betaSlow = 1, truncate = true } = scaling;
  const pairOf = (turns: number) =>
    (pairs * Math.log(originalPositions / (turns * 2 * Math.PI))) / Math.log(theta);
  const [low, high] = [pairOf(betaFast), pairOf(betaSlow)];
  const first = Math.max(truncate ? Math.floor(low) : low, 0);
  const last = Math.min(truncate ? Math.ceil(high) : high, 2 * pairs - 1);
  const width = last === first ? 0.001 : last - first;
  return plain(theta, pairs).map((frequency, pair) => {
    const slowed = Math.min(Math.max((pair - first) / width, 0), 1);
    return (slowed * frequency) / factor + (1 - slowed) * frequency;
  });
}
