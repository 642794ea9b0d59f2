import { counted } from "../shown.ts";
import type { Traffic, Visit } from "./traffic.ts";
import type {
  ReplayOptions,
  ReplayResult,
  RequestRecord,
  StepRecord,
  VerifyResult,
} from "./types.ts";

/** What a run leaves behind, beside its steps. */
export interface Outcome {
  traffic: Traffic;
  steps: StepRecord[];
  seconds: number;
  preemptions: number;
  readCeilingGBs: number;
  verified: VerifyResult;
  device: string;
  dtype: string;
  planSvg: string | null;
  interrupted: boolean;
}

/** Sums a run up. */
export function resultOf(outcome: Outcome, options: ReplayOptions): ReplayResult {
  const { traffic, steps, dtype, ...rest } = outcome;
  const times = traffic.tokenSeconds();
  let found = 0;
  let lookedUp = 0;
  for (const { job } of traffic.visits) {
    if (job === null || Number.isNaN(job.startSeconds)) continue;
    found += job.cachedTokens;
    lookedUp += job.promptLength;
  }
  const most = steps.reduce((pages, step) => Math.max(pages, step.pagesUsed), 0);
  return {
    ...rest,
    requests: traffic.visits
      .map((visit, i) => recordOf(visit, times[i]))
      .sort((a, b) => a.id - b.id),
    steps,
    prefixHitRate: lookedUp === 0 ? 0 : found / lookedUp,
    pageUsePeak: most / options.pages,
    pages: options.pages,
    kvReadGBs: readRateOf(steps),
    shape: shapeOf(options, dtype),
    trace: options.trace ?? "requests",
  };
}

function shapeOf({ shape, layers }: ReplayOptions, dtype: string): string {
  return `${shape.name}, ${layers} of ${counted(shape.layers, "layer")}, ${dtype}`;
}

/**
 * Bytes of K/V a second of attention, in 1e9, over the steps that only generate, if there are any:
 * prompts are bound by arithmetic, and what they read says nothing about memory.
 */
function readRateOf(steps: readonly StepRecord[]): number {
  const decodes = steps.filter((step) => step.prefillTokens === 0);
  let bytes = 0;
  let microseconds = 0;
  for (const step of decodes.length > 0 ? decodes : steps) {
    bytes += step.kvBytes;
    microseconds += step.kernelMicroseconds;
  }
  return microseconds === 0 ? 0 : bytes / microseconds / 1e3;
}

function recordOf(visit: Visit, tokenSeconds: Float64Array): RequestRecord {
  const { request, arrivalSeconds, job } = visit;
  const outputTokens = tokenSeconds.length;
  return {
    id: request.id,
    arrivalSeconds,
    firstTokenSeconds: outputTokens > 0 ? tokenSeconds[0] : NaN,
    finishSeconds: job?.ending === "length" ? tokenSeconds[outputTokens - 1] : NaN,
    promptTokens: request.promptTokens.length,
    outputTokens,
    tokenSeconds,
    cachedTokens: job?.cachedTokens ?? 0,
    preemptions: job?.preemptions ?? 0,
  };
}
