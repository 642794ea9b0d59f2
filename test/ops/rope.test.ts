import { describe, expect, test } from "bun:test";
import { ropeFrequencies, type RopeOptions } from "../../src/ops/rope.ts";
import { attentionFactorOf, yarnMscale } from "../../src/ops/rope-scaling.ts";
import golden from "./rope-golden.json";

const original = { originalPositions: 4096 };
const yarn = { kind: "yarn", ...original } as const;
const longrope = {
  kind: "longrope",
  factor: 8,
  ...original,
  shortFactors: Array.from({ length: 12 }, (_, i) => 1 + i / 50),
  longFactors: Array.from({ length: 12 }, (_, i) => 1 + (i * i) / 9),
} as const;
const llama3 = {
  kind: "llama3",
  factor: 8,
  lowFrequencyFactor: 1,
  highFrequencyFactor: 4,
  originalPositions: 8192,
} as const;
const dynamic = { kind: "dynamic", factor: 2.5, ...original } as const;

/** The cases of rope_golden.py in our words. */
const asOptions: Record<string, RopeOptions> = {
  default: {},
  linear: { scaling: { kind: "linear", factor: 3 } },
  llama3: { theta: 5e5, scaling: llama3 },
  yarn: { scaling: { ...yarn, factor: 16 } },
  "yarn, other betas": { scaling: { ...yarn, factor: 4, betaFast: 48, betaSlow: 0.5 } },
  "yarn, not truncated": { theta: 15e4, scaling: { ...yarn, factor: 32, truncate: false } },
  "yarn, mscale": { scaling: { ...yarn, factor: 40, mscale: 1.2, mscaleAllDim: 0.7 } },
  "yarn, equal mscales": { scaling: { ...yarn, factor: 40, mscale: 1, mscaleAllDim: 1 } },
  "yarn, given": { scaling: { ...yarn, factor: 40, attentionFactor: 1.5 } },
  "yarn, no factor": { scaling: { ...yarn, factor: 1 } },
  "longrope, short": { scaling: { ...longrope, lengthTokens: 4096 } },
  "longrope, long": { scaling: { ...longrope, lengthTokens: 4097 } },
  "longrope, given": { scaling: { ...longrope, lengthTokens: 9000, attentionFactor: 1.25 } },
  "dynamic, short": { scaling: { ...dynamic, lengthTokens: 100 } },
  "dynamic, long": { scaling: { ...dynamic, lengthTokens: 10000 } },
};

const theta = 500_000;
const dim = 128;

/** Wavelength of a pair in tokens, before scaling. */
function wavelengths(): number[] {
  return Array.from({ length: dim / 2 }, (_, pair) => 2 * Math.PI * theta ** ((2 * pair) / dim));
}

describe("rope frequencies", () => {
  test("fall from 1 by the base, over the rotated elements only", () => {
    const frequencies = ropeFrequencies({ theta: 10_000, dim: 4 }, 64);
    expect([...frequencies]).toEqual([1, 0.01]);
    expect(ropeFrequencies({}, 64)).toHaveLength(32);
  });

  test("linear scaling divides them all", () => {
    const plain = ropeFrequencies({ theta }, dim);
    const scaled = ropeFrequencies({ theta, scaling: { kind: "linear", factor: 4 } }, dim);
    scaled.forEach((frequency, pair) => expect(frequency).toBeCloseTo(plain[pair] / 4, 15));
  });

  const head = { headDim: 24, theta: 1e4 };
  test.each(golden.map((each) => [each.name, each] as const))(
    "%s, as transformers",
    (name, made) => {
      const { theta = head.theta, scaling } = asOptions[name];
      const frequencies = ropeFrequencies({ theta, scaling }, head.headDim);
      expect(frequencies).toHaveLength(made.frequencies.length);
      frequencies.forEach((frequency, pair) =>
        expect(frequency / made.frequencies[pair]).toBeCloseTo(1, 13),
      );
      expect(attentionFactorOf(scaling)).toBeCloseTo(made.factor, 14);
    },
  );

  test("Llama 3.1 keeps short waves, slows long ones and blends between", () => {
    // As its reference implementation says it, in wavelengths.
    const [factor, low, high, original] = [8, 1, 4, 8192];
    const expected = wavelengths().map((wavelength) => {
      const frequency = (2 * Math.PI) / wavelength;
      if (wavelength < original / high) return frequency;
      if (wavelength > original / low) return frequency / factor;
      const smooth = (original / wavelength - low) / (high - low);
      return ((1 - smooth) * frequency) / factor + smooth * frequency;
    });
    const scaling = llama3;
    const frequencies = ropeFrequencies({ theta, scaling }, dim);
    frequencies.forEach((frequency, pair) => expect(frequency / expected[pair]).toBeCloseTo(1, 12));
    const plain = ropeFrequencies({ theta }, dim);
    const kinds = [...frequencies].map((frequency, pair) => plain[pair] / frequency);
    expect(kinds.filter((ratio) => ratio === 1).length).toBeGreaterThan(20);
    expect(kinds.filter((ratio) => ratio > 1 && ratio < 7.99).length).toBeGreaterThan(3);
    expect(kinds.filter((ratio) => ratio > 7.99).length).toBeGreaterThan(20);
  });

  test("YaRN, in the words of its paper, without whole pairs", () => {
    // Section 3.2: r(d) turns in the context L; gamma is 0 below alpha, 1 above beta turns, and
    // linear between in r; the implementations' ramp is linear in d. Both keep and divide alike.
    const scaling = { ...yarn, factor: 16, truncate: false } as const;
    const frequencies = ropeFrequencies({ theta, scaling }, dim);
    wavelengths().forEach((wavelength, pair) => {
      const turns = 4096 / wavelength;
      const ratio = frequencies[pair] / ((2 * Math.PI) / wavelength);
      if (turns > 32) expect(ratio).toBeCloseTo(1, 12);
      else if (turns < 1) expect(ratio).toBeCloseTo(1 / 16, 12);
      else expect(ratio > 1 / 16 && ratio < 1).toBe(true);
    });
    expect(attentionFactorOf(scaling) ** 2).toBeCloseTo((0.1 * Math.log(16) + 1) ** 2, 12);
    expect(yarnMscale(0.5, 3)).toBe(1);
    expect(yarnMscale(40, 0.7)).toBeCloseTo(1 + 0.07 * Math.log(40), 14);
  });
});
