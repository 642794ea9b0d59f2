import { describe, expect, test } from "bun:test";
import { traceEvents } from "../../src/replay/perfetto.ts";
import { histogram } from "../../src/replay/chart-page.ts";
import { reportPage, timeSeries } from "../../src/replay/report.ts";
import { forSeeds } from "../support/random.ts";
import { replayResult, stepRecord } from "./synthetic.ts";

function sum(values: number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

describe("time series", () => {
  test("spread tokens over their steps and lose none", () => {
    forSeeds(50, (random) => {
      let now = 0;
      const steps = Array.from({ length: random.integer(1, 600) }, () => {
        const startSeconds = now + random.next() * 0.01;
        now = startSeconds + random.next() * 0.02;
        return stepRecord({ startSeconds, endSeconds: now, decodeTokens: random.integer(0, 64) });
      });
      const seconds = now + random.next();
      const { x, decode } = timeSeries(steps, seconds);
      const width = seconds / x.length;
      expect(x.length).toBe(Math.min(240, steps.length));
      expect(sum(decode) * width).toBeCloseTo(sum(steps.map((step) => step.decodeTokens)), 6);
    });
  });

  test("states hold until a step changes them", () => {
    const steps = [0, 0.9].map((startSeconds, i) =>
      stepRecord({ startSeconds, endSeconds: startSeconds + 0.01, pagesUsed: 5 + i }),
    );
    const many = [...steps, stepRecord({ startSeconds: 0.95, endSeconds: 0.99, pagesUsed: 9 })];
    expect(timeSeries(many, 1).pages).toEqual([5, 5, 9]);
    expect(timeSeries([], 1)).toMatchObject({ x: [0.5], pages: [0] });
  });
});

describe("histogram", () => {
  test("counts every value once", () => {
    forSeeds(50, (random) => {
      const values = Float64Array.from({ length: random.integer(0, 500) }, () =>
        Math.exp(random.normal()),
      ).sort();
      const { count, beyond } = histogram(values);
      expect(sum(count)).toBe(values.length);
      expect(beyond).toBeLessThanOrEqual(Math.ceil(values.length / 100));
    });
  });

  test("equal values and zeros have a bar", () => {
    expect(sum(histogram(Float64Array.of(0, 0)).count)).toBe(2);
    expect(sum(histogram(Float64Array.of(3, 3, 3)).count)).toBe(3);
  });
});

describe("the page", () => {
  test("needs nothing but itself", async () => {
    const page = await reportPage(replayResult());
    expect(page).toStartWith("<!doctype html>");
    expect(page).toContain('<svg id="plan"></svg>');
    expect(page).toContain("uPlot");
    expect(page).not.toMatch(/<(script|link|img|iframe)[^>]*\s(src|href)=/);
    expect(page).not.toMatch(/\{\{\w+\}\}|\/\*\{\w+\}\*\//);
    expect(page.length).toBeLessThan(200_000);
  });

  test("shows names as text, whatever they hold", async () => {
    const trace = `</script><script>alert("x")</script>$&{{plan}}`;
    const page = await reportPage(replayResult({ trace, planSvg: null }));
    expect(page).not.toContain("<script>alert");
    expect(page).toContain("&lt;script&gt;alert");
    const data = /<script type="application\/json" id="data">([\s\S]*?)<\/script>/.exec(page)![1];
    const charts = (JSON.parse(data) as { kind: string }[]).map(({ kind }) => kind);
    expect(charts).toEqual(["lines", "lines", "lines", "bars", "bars"]);
    for (const at of charts.keys()) expect(page).toContain(`id="chart-${at}"`);
  });

  test("of an empty run that was interrupted", async () => {
    const empty = { requests: [], steps: [], seconds: 0, planSvg: null, interrupted: true };
    const page = await reportPage(replayResult(empty));
    expect(page).toContain("Interrupted");
    expect(page).toContain("No step ran");
    expect(page).not.toMatch(/NaN%|Infinity/);
  });
});

describe("trace events", () => {
  test("are in range and name steps, counters and requests", () => {
    const { traceEvents: events } = JSON.parse(JSON.stringify(traceEvents(replayResult())));
    const names = new Set(events.map(({ name }: { name: string }) => name));
    for (const name of ["prefill and decode", "host", "kernels", "pages", "request 0: prompt"])
      expect(names).toContain(name);
    expect(names).not.toContain("request 3: prompt");
    for (const event of events) {
      expect(event.ts).toBeGreaterThanOrEqual(0);
      if (event.ph === "X") expect(event.dur).toBeGreaterThanOrEqual(0);
    }
  });

  test("requests on one row never overlap", () => {
    forSeeds(30, (random) => {
      const requests = Array.from({ length: 40 }, (_, id) => {
        const arrivalSeconds = random.next() * 10;
        const firstTokenSeconds = arrivalSeconds + random.next();
        const tokenSeconds = Float64Array.of(firstTokenSeconds, firstTokenSeconds + random.next());
        const finishSeconds = tokenSeconds[1];
        const [first] = replayResult().requests;
        return { ...first, id, arrivalSeconds, firstTokenSeconds, finishSeconds, tokenSeconds };
      });
      const rows = new Map<number, { ts: number; dur: number }[]>();
      for (const { ph, pid, tid, ts, dur = 0 } of traceEvents(replayResult({ requests }))
        .traceEvents)
        if (ph === "X" && pid === 2) rows.set(tid, [...(rows.get(tid) ?? []), { ts, dur }]);
      for (const spans of rows.values()) {
        spans.sort((a, b) => a.ts - b.ts);
        for (let i = 1; i < spans.length; i++)
          expect(spans[i].ts).toBeGreaterThanOrEqual(spans[i - 1].ts + spans[i - 1].dur - 1e-3);
      }
    });
  });
});
