import {
  interTokenTimes,
  percentile,
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

/** Bars of a histogram: `x` holds the middles of bins, `count` the values in each. */
export interface Histogram {
  x: number[];
  count: number[];
  width: number;
  /** Values beyond the last bin, which counts them too. */
  beyond: number;
  /** Marked in the chart; null of no values. */
  percentiles: { p50: number | null; p99: number | null };
}

const timeBins = 240;
const histogramBins = 40;

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

/** A histogram of ascending values; the last bin, a little above p99, takes what is beyond. */
export function histogram(sorted: Float64Array): Histogram {
  const end = (percentile(sorted, 99) ?? 0) * 1.1 || 1;
  const width = end / histogramBins;
  const count = new Array<number>(histogramBins).fill(0);
  let beyond = 0;
  for (const value of sorted) {
    if (value >= end) beyond++;
    count[Math.min(histogramBins - 1, Math.max(0, Math.floor(value / width)))]++;
  }
  const percentiles = { p50: percentile(sorted, 50), p99: percentile(sorted, 99) };
  return { x: count.map((_, bin) => (bin + 0.5) * width), count, width, beyond, percentiles };
}

/**
 * The report of a run: one HTML page that needs nothing but itself. `about`: what ran, and when.
 */
export async function reportPage(result: ReplayResult, about = ""): Promise<string> {
  const summary = summarize(result);
  const [template, script, uplotScript, uplotStyle] = await Promise.all([
    Bun.file(new URL("./report.html", import.meta.url)).text(),
    Bun.file(new URL("./report-page.js", import.meta.url)).text(),
    packageFile("uplot/dist/uPlot.iife.min.js"),
    packageFile("uplot/dist/uPlot.min.css"),
  ]);
  const data = {
    time: timeSeries(result.steps, result.seconds),
    ttft: histogram(timesToFirstToken(result.requests)),
    itl: histogram(interTokenTimes(result.requests)),
    pages: result.pages,
  };
  const parts: Record<string, string> = {
    title: escape(`Replay of ${result.trace}`),
    about: escape(about),
    subtitle: escape(`${result.shape} on ${result.device}`),
    note: result.interrupted ? `<p class="note">Interrupted: the figures are partial.</p>` : "",
    tiles: tiles(summary),
    shares: timeShares(result),
    rows: summaryRows(summary)
      .map(([name, value]) => `<tr><th>${escape(name)}</th><td>${escape(value)}</td></tr>`)
      .join("\n"),
    plan: result.planSvg ?? "<p>No step ran.</p>",
    script,
    uplotStyle,
    uplotScript,
    // JSON inside a script element must not hold the end of it.
    data: JSON.stringify(data).replaceAll("<", "\\u003c"),
  };
  return template.replace(/\/\*\{(\w+)\}\*\/|\{\{(\w+)\}\}/g, (_, a, b) => parts[a ?? b]);
}

function packageFile(name: string): Promise<string> {
  return Bun.file(new URL(import.meta.resolve(name))).text();
}

function tiles(summary: Summary): string {
  const { ttftMs, itlMs, verified } = summary;
  const number = (value: number | null, digits = 0) =>
    value === null ? "-" : value.toLocaleString("en-US", { maximumFractionDigits: digits });
  const { kvReadGBs, readCeilingGBs } = summary;
  const share =
    kvReadGBs > readCeilingGBs
      ? `above the ${number(readCeilingGBs, 1)} of memory`
      : `${number((kvReadGBs / readCeilingGBs) * 100)} % of the read ceiling`;
  const right = verified.failed === 0;
  const tile = (name: string, value: string, unit: string, detail: string) =>
    `<div class="tile"><span>${name}</span><b>${value}<small>${unit}</small></b>` +
    `<span>${detail}</span></div>`;
  return [
    tile("Throughput", number(summary.tokensPerSecond), " tokens/s", "prompt and output"),
    tile("First token", number(ttftMs.p50, 1), " ms", `p99 ${number(ttftMs.p99, 1)} ms`),
    tile("Between tokens", number(itlMs.p50, 1), " ms", `p99 ${number(itlMs.p99, 1)} ms`),
    tile("Prefix hits", number(summary.prefixHitRate * 100, 1), " %", "of prompt tokens"),
    tile("KV read rate", number(summary.kvReadGBs, 1), " GB/s", readCeilingGBs > 0 ? share : ""),
    tile(
      "Verified",
      right ? number(verified.checked) : `${number(verified.failed)} wrong`,
      right ? " outputs" : "",
      right ? "none off" : `of ${number(verified.checked)} outputs`,
    ),
  ].join("\n");
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

function escape(text: string): string {
  return Bun.escapeHTML(text);
}
