import type { ReplayResult, RequestRecord, StepRecord } from "../../src/replay/types.ts";

/** A request that got its first token at `first` and one more every `gap` seconds. */
function requestRecord(first: number, tokens: number, gap: number): RequestRecord {
  const tokenSeconds = Float64Array.from({ length: tokens }, (_, i) => first + i * gap);
  return {
    id: 0,
    arrivalSeconds: 0,
    firstTokenSeconds: tokens > 0 ? first : NaN,
    finishSeconds: tokens > 0 ? tokenSeconds[tokens - 1] : NaN,
    promptTokens: 100,
    outputTokens: tokens,
    tokenSeconds,
    cachedTokens: 32,
    preemptions: 0,
  };
}

/** A step with every field set. */
export function stepRecord(changes: Partial<StepRecord> = {}): StepRecord {
  return {
    startSeconds: 0,
    endSeconds: 0.01,
    decodeTokens: 8,
    prefillTokens: 100,
    runningRequests: 9,
    waitingRequests: 3,
    pagesUsed: 40,
    planMicroseconds: 50,
    hostMicroseconds: 500,
    synthesisMicroseconds: 1500,
    kernelMicroseconds: 8000,
    graphBucket: 0,
    kvBytes: 1e6,
    ...changes,
  };
}

/** A run of one second: ten steps, four requests of which one never started. */
export function replayResult(changes: Partial<ReplayResult> = {}): ReplayResult {
  return {
    requests: [
      { ...requestRecord(0.1, 5, 0.01), id: 0 },
      { ...requestRecord(0.2, 5, 0.02), id: 1 },
      { ...requestRecord(0.3, 1, 0), id: 2 },
      { ...requestRecord(NaN, 0, 0), id: 3 },
    ],
    steps: Array.from({ length: 10 }, (_, i) =>
      stepRecord({
        startSeconds: i / 10,
        endSeconds: (i + 1) / 10,
        planMicroseconds: 10 * (i + 1),
        pagesUsed: i,
      }),
    ),
    seconds: 1,
    preemptions: 2,
    prefixHitRate: 0.32,
    pageUsePeak: 0.5,
    kvReadGBs: 6,
    pages: 100,
    readCeilingGBs: 12,
    verified: { checked: 64, failed: 0, maxRelError: 1e-6, misses: [] },
    device: "a device",
    shape: "tiny",
    trace: "a trace",
    planSvg: '<svg id="plan"></svg>',
    interrupted: false,
    ...changes,
  };
}
