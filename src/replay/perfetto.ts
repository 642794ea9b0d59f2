import type { ReplayResult, RequestRecord, StepRecord } from "./types.ts";

/** One event of the trace-event format; times in microseconds. */
export interface TraceEvent {
  name: string;
  ph: "X" | "C" | "M";
  pid: number;
  tid: number;
  ts: number;
  dur?: number;
  args: Record<string, number | string>;
}

const runProcess = 1;
const requestProcess = 2;

/**
 * A run as trace events, which Perfetto and chrome://tracing open: steps and what they spent their
 * time on, counters, and one row of time for every request that runs at once.
 */
export function traceEvents(result: ReplayResult): { traceEvents: TraceEvent[] } {
  const events: TraceEvent[] = [
    named(runProcess, 0, "process_name", `replay on ${result.device}`),
    named(runProcess, 1, "thread_name", "steps"),
    named(runProcess, 2, "thread_name", "inside a step"),
    named(runProcess, 3, "thread_name", "host, a step ahead"),
    named(requestProcess, 0, "process_name", "requests"),
  ];
  for (const step of result.steps) events.push(...stepEvents(step));
  events.push(...requestEvents(result.requests));
  return { traceEvents: events };
}

function named(pid: number, tid: number, what: string, name: string): TraceEvent {
  return { name: what, ph: "M", pid, tid, ts: 0, args: { name } };
}

function stepEvents(step: StepRecord): TraceEvent[] {
  const ts = step.startSeconds * 1e6;
  const counter = (name: string, args: Record<string, number>): TraceEvent => ({
    name,
    ph: "C",
    pid: runProcess,
    tid: 0,
    ts,
    args,
  });
  const span = (name: string, tid: number, start: number, dur: number): TraceEvent => ({
    name,
    ph: "X",
    pid: runProcess,
    tid,
    ts: start,
    dur,
    args: {},
  });
  const { decodeTokens, prefillTokens, runningRequests, waitingRequests } = step;
  const { pagesUsed, kvBytes, graphBucket } = step;
  const whole = span(prefillTokens > 0 ? "prefill and decode" : "decode", 1, ts, 0);
  whole.dur = (step.endSeconds - step.startSeconds) * 1e6;
  whole.args = { decodeTokens, prefillTokens, pagesUsed, kvBytes, graphBucket };
  // The parts of a step are sums over its layers, so they are laid one after the other.
  const kernels = ts + step.synthesisMicroseconds;
  const host = Math.min(step.hostMicroseconds, ts);
  return [
    whole,
    span("host", 3, ts - host, host),
    span("synthesis", 2, ts, step.synthesisMicroseconds),
    span(graphBucket > 0 ? "graph" : "kernels", 2, kernels, step.kernelMicroseconds),
    counter("tokens", { decode: decodeTokens, prefill: prefillTokens }),
    counter("requests", { running: runningRequests, waiting: waitingRequests }),
    counter("pages", { used: pagesUsed }),
  ];
}

/** Requests as spans, each on the first row that is free when it arrives. */
function requestEvents(requests: readonly RequestRecord[]): TraceEvent[] {
  const events: TraceEvent[] = [];
  const freeAt: number[] = [];
  for (const request of requests.toSorted((a, b) => a.arrivalSeconds - b.arrivalSeconds)) {
    const { id, arrivalSeconds, firstTokenSeconds, tokenSeconds } = request;
    if (Number.isNaN(firstTokenSeconds)) continue;
    const last = tokenSeconds.length === 0 ? NaN : tokenSeconds[tokenSeconds.length - 1];
    const end = Number.isNaN(request.finishSeconds) ? last : request.finishSeconds;
    let row = freeAt.findIndex((free) => free <= arrivalSeconds);
    if (row === -1) row = freeAt.length;
    freeAt[row] = end;
    const { promptTokens, outputTokens, cachedTokens, preemptions } = request;
    const part = (name: string, from: number, to: number): TraceEvent => ({
      name,
      ph: "X",
      pid: requestProcess,
      tid: row + 1,
      ts: from * 1e6,
      dur: Math.max(0, to - from) * 1e6,
      args: { promptTokens, outputTokens, cachedTokens, preemptions },
    });
    events.push(part(`request ${id}: prompt`, arrivalSeconds, firstTokenSeconds));
    if (end > firstTokenSeconds) events.push(part(`request ${id}: output`, firstTokenSeconds, end));
  }
  return events;
}
