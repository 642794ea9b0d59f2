import { describe, expect, test } from "bun:test";
import { ropeFrequencies } from "../../src/ops/rope.ts";

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
    const scaling = {
      kind: "llama3" as const,
      factor,
      originalPositions: original,
      lowFrequencyFactor: low,
      highFrequencyFactor: high,
    };
    const frequencies = ropeFrequencies({ theta, scaling }, dim);
    frequencies.forEach((frequency, pair) => expect(frequency / expected[pair]).toBeCloseTo(1, 12));
    const plain = ropeFrequencies({ theta }, dim);
    const kinds = [...frequencies].map((frequency, pair) => plain[pair] / frequency);
    expect(kinds.filter((ratio) => ratio === 1).length).toBeGreaterThan(20);
    expect(kinds.filter((ratio) => ratio > 1 && ratio < 7.99).length).toBeGreaterThan(3);
    expect(kinds.filter((ratio) => ratio > 7.99).length).toBeGreaterThan(20);
  });
});
