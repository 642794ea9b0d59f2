import {
  type BarChart,
  chartPage,
  histogram,
  type Line,
  type LineChart,
  type Tile,
} from "./chart-page.ts";
import {
  interTokenTimes,
  stepSeconds,
  type Summary,
  summarize,
  summaryRows,
  timesToFirstToken,
} from "./metrics.ts";
import type { ReplayResult, StepRecord } from "./types.ts";

/** Columns over time: `x` in seconds, each series of the same length. */
export interface TimeSeries {
  x: number[];
  prefill: number[];
  decode: number[];
  running: number[];
  waiting: number[];
  pages: number[];
}

const timeBins = 240;

/**
 * A run over time in equal bins: tokens per second spread over the steps that made them; requests
 * and pages as the last step of each bin left them.
 */
export function timeSeries(steps: readonly StepRecord[], seconds: number): TimeSeries {
  const bins = Math.max(1, Math.min(timeBins, steps.length));
  const width = Math.max(seconds, 1e-9) / bins;
  const filled = () => new Array<number>(bins).fill(0);
  const series: TimeSeries = {
    x: Array.from({ length: bins }, (_, bin) => (bin + 0.5) * width),
    prefill: filled(),
    decode: filled(),
    running: filled(),
    waiting: filled(),
    pages: filled(),
  };
  const binOf = (time: number) => Math.min(bins - 1, Math.max(0, Math.floor(time / width)));
  let reached = 0;
  for (const step of steps) {
    const { startSeconds, endSeconds } = step;
    const duration = Math.max(endSeconds - startSeconds, 1e-9);
    const last = binOf(endSeconds);
    for (let bin = binOf(startSeconds); bin <= last; bin++) {
      const from = Math.max(startSeconds, bin * width);
      const part = Math.max(0, Math.min(endSeconds, (bin + 1) * width) - from) / duration / width;
      series.prefill[bin] += step.prefillTokens * part;
      series.decode[bin] += step.decodeTokens * part;
    }
    for (; reached < last; reached++) carry(series, reached);
    series.running[last] = step.runningRequests;
    series.waiting[last] = step.waitingRequests;
    series.pages[last] = step.pagesUsed;
  }
  for (; reached < bins - 1; reached++) carry(series, reached);
  return series;
}

/** What held in a bin holds in the next until a step says otherwise. */
function carry(series: TimeSeries, bin: number): void {
  for (const values of [series.running, series.waiting, series.pages])
    values[bin + 1] = values[bin];
}

/**
 * The report of a run: one HTML page that needs nothing but itself. `about`: what ran, and when.
 */
export function reportPage(result: ReplayResult, about = ""): Promise<string> {
  const summary = summarize(result);
  const { x, prefill, decode, running, waiting, pages } = timeSeries(result.steps, result.seconds);
  const lines = (...all: Line[]): LineChart => ({ kind: "lines", x, lines: all });
  const bars = (label: string, sorted: Float64Array): BarChart => {
    return { kind: "bars", label, colour: "blue", histogram: histogram(sorted) };
  };
  const all = x.map(() => result.pages);
  return chartPage({
    title: `Replay of ${result.trace}`,
    subtitle: `${result.shape} on ${result.device}`,
    about,
    ...(result.interrupted && { note: "Interrupted: the figures are partial." }),
    tiles: tiles(summary),
    cards: [
      { heading: "Where the time went", isWide: true, html: timeShares(result) },
      {
        heading: "Throughput (tokens/s)",
        isWide: true,
        chart: {
          ...lines(
            { label: "prompt", colour: "blue", values: prefill },
            { label: "output", colour: "orange", values: decode },
          ),
          height: 260,
        },
      },
      {
        heading: "Batch (requests)",
        chart: lines(
          { label: "running", colour: "blue", values: running },
          { label: "waiting", colour: "orange", values: waiting },
        ),
      },
      {
        heading: "Pages in use",
        chart: lines(
          { label: "in use", colour: "green", values: pages },
          { label: "all", colour: "soft", values: all, isLimit: true },
        ),
      },
      {
        heading: "Time to the first token (requests by ms)",
        chart: bars("requests", timesToFirstToken(result.requests)),
      },
      {
        heading: "Time between tokens (tokens by ms)",
        chart: bars("tokens", interTokenTimes(result.requests)),
      },
      {
        heading: "A plan: what each thread does, over time",
        isWide: true,
        html: `<div class="plan">${result.planSvg ?? "<p>No step ran.</p>"}</div>`,
      },
    ],
    rows: summaryRows(summary),
  });
}

function tiles(summary: Summary): Tile[] {
  const { ttftMs, itlMs, verified } = summary;
  const number = (value: number | null, digits = 0) =>
    value === null ? "-" : value.toLocaleString("en-US", { maximumFractionDigits: digits });
  const { kvReadGBs, readCeilingGBs } = summary;
  const share =
    kvReadGBs > readCeilingGBs
      ? `above the ${number(readCeilingGBs, 1)} of memory`
      : `${number((kvReadGBs / readCeilingGBs) * 100)} % of the read ceiling`;
  const right = verified.failed === 0;
  return [
    ["Throughput", number(summary.tokensPerSecond), " tokens/s", "prompt and output"],
    ["First token", number(ttftMs.p50, 1), " ms", `p99 ${number(ttftMs.p99, 1)} ms`],
    ["Between tokens", number(itlMs.p50, 1), " ms", `p99 ${number(itlMs.p99, 1)} ms`],
    ["Prefix hits", number(summary.prefixHitRate * 100, 1), " %", "of prompt tokens"],
    ["KV read rate", number(summary.kvReadGBs, 1), " GB/s", readCeilingGBs > 0 ? share : ""],
    [
      "Verified",
      right ? number(verified.checked) : `${number(verified.failed)} wrong`,
      right ? " outputs" : "",
      right ? "none off" : `of ${number(verified.checked)} outputs`,
    ],
  ];
}

/** One bar: where the run's time went. */
function timeShares({ steps, seconds }: ReplayResult): string {
  const sum = (field: keyof StepRecord) => steps.reduce((total, step) => total + step[field], 0);
  const kernels = sum("kernelMicroseconds") / 1e6;
  const synthesis = sum("synthesisMicroseconds") / 1e6;
  const host = sum("hostMicroseconds") / 1e6;
  const total = Math.max(seconds, stepSeconds(steps), kernels + synthesis + host, 1e-9);
  const parts: [string, string, number][] = [
    ["kernels", "a", kernels],
    ["making inputs", "b", synthesis],
    ["host", "c", host],
    ["rest", "d", Math.max(0, total - kernels - synthesis - host)],
  ];
  const percent = (value: number) => `${((100 * value) / total).toFixed(1)}%`;
  const bar = parts.map(
    ([, kind, value]) => `<i class="${kind}" style="width:${percent(value)}"></i>`,
  );
  const legend = parts.map(
    ([name, kind, value]) =>
      `<span><i class="${kind}"></i>${name} ${percent(value)} (${value.toFixed(2)} s)</span>`,
  );
  return `<div class="bar">${bar.join("")}</div><div class="key">${legend.join("")}</div>`;
}
