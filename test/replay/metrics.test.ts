import { describe, expect, test } from "bun:test";
import {
  interTokenTimes,
  percentile,
  percentilesOf,
  summarize,
  summaryTable,
  timesToFirstToken,
} from "../../src/replay/metrics.ts";
import { forSeeds } from "../support/random.ts";
import { replayResult } from "./synthetic.ts";

describe("percentiles", () => {
  test("between the two nearest values", () => {
    expect(percentile([], 50)).toBeNull();
    expect(percentile([7], 99)).toBe(7);
    expect(percentile([1, 2, 3, 4], 50)).toBe(2.5);
    expect(percentile([1, 2, 3, 4], 0)).toBe(1);
    expect(percentile([1, 2, 3, 4], 100)).toBe(4);
    expect(percentilesOf([0, 100])).toEqual({ p50: 50, p90: 90, p99: 99 });
  });

  test("rise with p and stay within the values", () => {
    forSeeds(100, (random) => {
      const values = Float64Array.from({ length: random.integer(1, 30) }, () => random.normal());
      values.sort();
      const found = [0, 10, 50, 90, 99, 100].map((p) => percentile(values, p)!);
      expect(found).toEqual(found.toSorted((a, b) => a - b));
      expect(found[0]).toBe(values[0]);
      expect(found.at(-1)!).toBe(values.at(-1)!);
    });
  });
});

describe("the summary", () => {
  const keys = [
    "requests",
    "promptTokens",
    "outputTokens",
    "seconds",
    "tokensPerSecond",
    "ttftMs",
    "itlMs",
    "prefixHitRate",
    "pageUsePeak",
    "preemptions",
    "steps",
    "graphSteps",
    "planUs",
    "hostShare",
    "kvReadGBs",
    "readCeilingGBs",
    "verified",
    "interrupted",
    "device",
    "shape",
    "trace",
  ];

  test("has the stable keys", () => {
    const summary = JSON.parse(JSON.stringify(summarize(replayResult())));
    expect(Object.keys(summary)).toEqual(keys);
    expect(Object.keys(summary.ttftMs)).toEqual(["p50", "p90", "p99"]);
    expect(Object.keys(summary.itlMs)).toEqual(["p50", "p90", "p99"]);
    expect(Object.keys(summary.planUs)).toEqual(["p50", "p99"]);
    expect(Object.keys(summary.verified)).toEqual(["checked", "failed", "maxRelError"]);
  });

  test("counts what happened", () => {
    const result = replayResult();
    const summary = summarize(result);
    expect(summary.requests).toBe(3);
    expect(summary.promptTokens).toBe(300);
    expect(summary.outputTokens).toBe(11);
    expect(summary.tokensPerSecond).toBe(311);
    expect(summary.ttftMs.p50).toBeCloseTo(200, 9);
    expect([...timesToFirstToken(result.requests)].map(Math.round)).toEqual([100, 200, 300]);
    const gaps = [...interTokenTimes(result.requests)].map(Math.round);
    expect(gaps).toEqual([10, 10, 10, 10, 20, 20, 20, 20]);
    expect(summary.planUs.p50).toBeCloseTo(55, 9);
    expect(summary.hostShare).toBeCloseTo((10 * 500e-6) / 1, 9);
  });

  test("of a run that ended before its first step", () => {
    const summary = summarize(
      replayResult({ requests: [], steps: [], seconds: 0, interrupted: true }),
    );
    expect(summary.ttftMs).toEqual({ p50: null, p90: null, p99: null });
    expect(summary.hostShare).toBeNull();
    expect(summary.tokensPerSecond).toBe(0);
    expect(summaryTable(summary)).toMatch(/first token \(p50\/p90\/p99\) +- \/ - \/ - ms/);
  });

  test("as a table says all figures, and a miss loudly", () => {
    const table = summaryTable(summarize(replayResult()));
    expect(table).toMatch(/tokens +300 prompt \+ 11 output/);
    expect(table).toMatch(/KV read rate +6.0 GB\/s, 50.0 % of the measured 12.0/);
    const above = summaryTable(summarize(replayResult({ readCeilingGBs: 4 })));
    expect(above).toMatch(
      /6.0 GB\/s, above the 4.0 that reading memory reached: partly from caches/,
    );
    const early = { verified: { checked: 0, failed: 0, maxRelError: 0, misses: [] } };
    const said = (interrupted: boolean) =>
      /verified +(.*)/.exec(summaryTable(summarize(replayResult({ ...early, interrupted }))))![1];
    expect([said(true), said(false)]).toEqual([
      "nothing, it ended too early",
      "nothing (--verify 0)",
    ]);
    expect(table).toMatch(/verified +64 outputs against f64, none off/);
    const verified = { checked: 64, failed: 2, maxRelError: 3, misses: [] };
    expect(summaryTable(summarize(replayResult({ verified })))).toMatch(
      /2 of 64 outputs are WRONG/,
    );
  });
});
