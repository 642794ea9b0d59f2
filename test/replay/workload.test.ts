import { describe, expect, test } from "bun:test";
import { OptionError } from "../../src/errors.ts";
import { shapeOf, shapes } from "../../src/replay/shapes.ts";
import { tokenOf, vocabulary } from "../../src/replay/tokens.ts";
import { generateWorkload } from "../../src/replay/workload.ts";
import { forSeeds } from "../support/random.ts";

function mean(values: number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

describe("the generator", () => {
  test("the same seed gives the same requests, another seed others", () => {
    const options = { requests: 50, rate: 5, seed: 9 };
    expect(generateWorkload(options)).toEqual(generateWorkload(options));
    const other = generateWorkload({ ...options, seed: 10 });
    expect(other[0].promptTokens).not.toEqual(generateWorkload(options)[0].promptTokens);
  });

  test.each(["log-normal", "zipf"] as const)("%s lengths have the means asked for", (lengths) => {
    const requests = generateWorkload({
      requests: 20_000,
      lengths,
      promptMean: 300,
      outputMean: 60,
      systemPrompts: 0,
    });
    const prompts = requests.map(({ promptTokens }) => promptTokens.length);
    const outputs = requests.map(({ outputTokens }) => outputTokens);
    expect(mean(prompts) / 300).toBeCloseTo(1, 1);
    expect(mean(outputs) / 60).toBeCloseTo(1, 1);
    expect(Math.min(...prompts, ...outputs)).toBeGreaterThanOrEqual(1);
    expect(Math.max(...prompts)).toBeLessThanOrEqual(3600);
    // A tail: the longest hundredth is far above the mean.
    expect(prompts.sort((a, b) => a - b)[19_800]).toBeGreaterThan(900);
  });

  test("arrivals are a Poisson process in order, or all at 0", () => {
    const requests = generateWorkload({ requests: 20_000, rate: 8, promptMean: 1 });
    const gaps = requests.slice(1).map((request, i) => {
      return request.arrivalSeconds - requests[i].arrivalSeconds;
    });
    expect(requests[0].arrivalSeconds).toBe(0);
    expect(Math.min(...gaps)).toBeGreaterThanOrEqual(0);
    expect(mean(gaps) * 8).toBeCloseTo(1, 1);
    // The standard deviation of exponential gaps is their mean.
    expect(Math.sqrt(mean(gaps.map((gap) => gap * gap)) / 2) * 8).toBeCloseTo(1, 1);
    const burst = generateWorkload({ requests: 5 });
    expect(burst.every(({ arrivalSeconds }) => arrivalSeconds === 0)).toBe(true);
  });

  test("requests share as many system prompts as asked for", () => {
    forSeeds(20, (random) => {
      const systemPrompts = random.integer(1, 5);
      const requests = generateWorkload({
        requests: 200,
        systemPrompts,
        systemTokens: 64,
        seed: random.integer(0, 1000),
      });
      const starts = new Set(requests.map(({ promptTokens }) => promptTokens.slice(0, 48).join()));
      expect(starts.size).toBe(systemPrompts);
    });
  });

  test("options outside their range", () => {
    for (const options of [
      { requests: 0 },
      { requests: NaN },
      { requests: 1, rate: 0 },
      { requests: 1, rate: NaN },
      { requests: 1, promptMean: -1 },
      { requests: 1, systemPrompts: 0.5 },
      { requests: 1, lengths: "flat" as "zipf" },
      { requests: 1, seed: -1 },
    ])
      expect(() => generateWorkload(options)).toThrow(OptionError);
  });
});

test("token ids are in the vocabulary and spread", () => {
  const counts = new Int32Array(16);
  for (let source = 0; source < 64; source++)
    for (let i = 0; i < 1024; i++) {
      const token = tokenOf(source * 1e9, i);
      expect(token >= 0 && token < vocabulary).toBe(true);
      counts[Math.floor((token / vocabulary) * 16)]++;
    }
  for (const count of counts) expect(count / 4096).toBeCloseTo(1, 0);
});

describe("shapes", () => {
  test("every shape can run", () => {
    for (const shape of shapes) {
      expect(shapeOf(shape.name.toUpperCase())).toBe(shape);
      expect(shape.queryHeads % shape.kvHeads).toBe(0);
      expect(shape.headDim % 8).toBe(0);
      expect(shape.headDim).toBeLessThanOrEqual(576);
    }
    expect(new Set(shapes.map(({ name }) => name)).size).toBe(shapes.length);
  });

  test("an unknown name lists the known ones", () => {
    expect(() => shapeOf("gpt-9")).toThrow(/shape must be one of tiny, .* \(got "gpt-9"\)\. Fix/);
  });
});
