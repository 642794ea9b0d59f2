import type { ReplayResult, RequestRecord, StepRecord } from "./types.ts";

/** Percentiles of a latency. */
export interface Percentiles {
  p50: number;
  p90: number;
  p99: number;
}

/** What `--json` writes: these keys are stable. Values that a run cannot have are null. */
export interface Summary {
  /** Requests that ended. */
  requests: number;
  /** Prompt tokens taken in, those found in the prefix index included. */
  promptTokens: number;
  /** Tokens generated. */
  outputTokens: number;
  seconds: number;
  /** Prompt and output tokens together. */
  tokensPerSecond: number;
  /** From a request's arrival to its first token, milliseconds. */
  ttftMs: PercentilesOrNull;
  /** Between two tokens of one request, milliseconds. */
  itlMs: PercentilesOrNull;
  prefixHitRate: number;
  pageUsePeak: number;
  preemptions: number;
  steps: number;
  /** Steps that replayed a captured graph. */
  graphSteps: number;
  planUs: { p50: number | null; p99: number | null };
  /** Time of scheduling, batch, plan and enqueue over the time of all steps. */
  hostShare: number | null;
  kvReadGBs: number;
  readCeilingGBs: number;
  verified: { checked: number; failed: number; maxRelError: number };
  /** The run was ended before its last request. */
  interrupted: boolean;
  device: string;
  shape: string;
  trace: string;
}

/** Percentiles, each null when nothing was measured. */
export type PercentilesOrNull = { [key in keyof Percentiles]: number | null };

/**
 * The p-th percentile (0 to 100) of ascending values, between the two nearest ones; null of none.
 */
export function percentile(sorted: ArrayLike<number>, p: number): number | null {
  if (sorted.length === 0) return null;
  const at = (Math.min(Math.max(p, 0), 100) / 100) * (sorted.length - 1);
  const low = Math.floor(at);
  const high = Math.ceil(at);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

/** p50, p90 and p99 of ascending values. */
export function percentilesOf(sorted: ArrayLike<number>): PercentilesOrNull {
  const [p50, p90, p99] = [50, 90, 99].map((p) => percentile(sorted, p));
  return { p50, p90, p99 };
}

/** Times to the first token in milliseconds, ascending; requests without one are left out. */
export function timesToFirstToken(requests: readonly RequestRecord[]): Float64Array {
  const times = requests
    .filter((request) => !Number.isNaN(request.firstTokenSeconds))
    .map((request) => (request.firstTokenSeconds - request.arrivalSeconds) * 1e3);
  return Float64Array.from(times).sort();
}

/** Times between tokens of the same request in milliseconds, ascending. */
export function interTokenTimes(requests: readonly RequestRecord[]): Float64Array {
  const count = requests.reduce((sum, { tokenSeconds: t }) => sum + Math.max(0, t.length - 1), 0);
  const times = new Float64Array(count);
  let at = 0;
  for (const { tokenSeconds } of requests)
    for (let i = 1; i < tokenSeconds.length; i++)
      times[at++] = (tokenSeconds[i] - tokenSeconds[i - 1]) * 1e3;
  return times.sort();
}

/** A field of all steps, ascending. */
function sortedField(steps: readonly StepRecord[], field: keyof StepRecord): Float64Array {
  return Float64Array.from(steps, (step) => step[field]).sort();
}

/** Seconds of all steps together; less than the run when it waited for arrivals. */
export function stepSeconds(steps: readonly StepRecord[]): number {
  return steps.reduce((sum, step) => sum + step.endSeconds - step.startSeconds, 0);
}

/** The figures of a run, also of one that was interrupted. */
export function summarize(result: ReplayResult): Summary {
  const { requests, steps, seconds, verified } = result;
  const started = requests.filter((request) => !Number.isNaN(request.firstTokenSeconds));
  const promptTokens = started.reduce((sum, request) => sum + request.promptTokens, 0);
  const outputTokens = requests.reduce((sum, request) => sum + request.outputTokens, 0);
  const plans = sortedField(steps, "planMicroseconds");
  const busy = stepSeconds(steps);
  const host = steps.reduce((sum, step) => sum + step.hostMicroseconds, 0) / 1e6;
  return {
    requests: requests.filter((request) => !Number.isNaN(request.finishSeconds)).length,
    promptTokens,
    outputTokens,
    seconds,
    tokensPerSecond: seconds > 0 ? (promptTokens + outputTokens) / seconds : 0,
    ttftMs: percentilesOf(timesToFirstToken(requests)),
    itlMs: percentilesOf(interTokenTimes(requests)),
    prefixHitRate: result.prefixHitRate,
    pageUsePeak: result.pageUsePeak,
    preemptions: result.preemptions,
    steps: steps.length,
    graphSteps: steps.filter(({ graphBucket }) => graphBucket > 0).length,
    planUs: { p50: percentile(plans, 50), p99: percentile(plans, 99) },
    hostShare: busy > 0 ? host / busy : null,
    kvReadGBs: result.kvReadGBs,
    readCeilingGBs: result.readCeilingGBs,
    verified: {
      checked: verified.checked,
      failed: verified.failed,
      maxRelError: verified.maxRelError,
    },
    interrupted: result.interrupted,
    device: result.device,
    shape: result.shape,
    trace: result.trace,
  };
}

/** The summary as names and values for people. */
export function summaryRows(summary: Summary): [string, string][] {
  const { ttftMs, itlMs, planUs, verified } = summary;
  return [
    ["device", summary.device],
    ["shape", summary.shape],
    ["trace", summary.trace],
    ["requests", whole(summary.requests)],
    ["tokens", `${whole(summary.promptTokens)} prompt + ${whole(summary.outputTokens)} output`],
    ["time", `${fixed(summary.seconds, 2)} s, ${whole(summary.tokensPerSecond)} tokens/s`],
    ["first token (p50/p90/p99)", `${threeOf(ttftMs)} ms`],
    ["between tokens (p50/p90/p99)", `${threeOf(itlMs)} ms`],
    ["prefix hit rate", percent(summary.prefixHitRate)],
    ["page use, peak", percent(summary.pageUsePeak)],
    ["preemptions", whole(summary.preemptions)],
    ["steps", stepsLine(summary)],
    ["plan (p50/p99)", `${fixed(planUs.p50, 0)} / ${fixed(planUs.p99, 0)} us`],
    ["host share of a step", percent(summary.hostShare)],
    ["KV read rate", readRateLine(summary)],
    ["verified", verifiedLine(verified, summary.interrupted)],
  ];
}

/** The summary as lines of two columns, for a terminal. */
export function summaryTable(summary: Summary): string {
  const rows = summaryRows(summary);
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `  ${name.padEnd(width)}  ${value}\n`).join("");
}

function stepsLine({ steps, graphSteps }: Summary): string {
  return graphSteps === 0
    ? whole(steps)
    : `${whole(steps)}, of which ${whole(graphSteps)} replayed a captured graph`;
}

/** More than plain reading reaches is not a share of it: then a cache gave what many share. */
function readRateLine({ kvReadGBs, readCeilingGBs }: Summary): string {
  const rate = `${fixed(kvReadGBs, 1)} GB/s`;
  const ceiling = fixed(readCeilingGBs, 1);
  if (readCeilingGBs === 0) return rate;
  if (kvReadGBs > readCeilingGBs)
    return `${rate}, above the ${ceiling} that reading memory reached: partly from caches`;
  return `${rate}, ${percent(kvReadGBs / readCeilingGBs)} of the measured ${ceiling}`;
}

function verifiedLine(
  { checked, failed, maxRelError }: Summary["verified"],
  interrupted: boolean,
): string {
  if (checked === 0) return interrupted ? "nothing, it ended too early" : "nothing (--verify 0)";
  const error = `largest relative error ${maxRelError.toExponential(1)}`;
  return failed === 0
    ? `${whole(checked)} outputs against f64, none off, ${error}`
    : `${whole(failed)} of ${whole(checked)} outputs are WRONG, ${error}`;
}

const thousands = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

function whole(value: number): string {
  return thousands.format(value);
}

/** A number with fixed digits; "-" where there is none. */
function fixed(value: number | null, digits: number): string {
  return value === null || !Number.isFinite(value) ? "-" : value.toFixed(digits);
}

function threeOf({ p50, p90, p99 }: PercentilesOrNull): string {
  return [p50, p90, p99].map((value) => fixed(value, 1)).join(" / ");
}

function percent(share: number | null): string {
  return share === null || !Number.isFinite(share) ? "-" : `${(share * 100).toFixed(1)} %`;
}
