import type { EngineStats } from "../../engine/index.ts";
import { percentilesOf, type PercentilesOrNull } from "../../replay/metrics.ts";
import { share } from "../table.ts";
import type { Asked } from "./target.ts";

/** What a benchmark measured; times in milliseconds at the client. */
export interface Figures {
  readonly answers: number;
  readonly failed: number;
  /** Reasons of failures with how many had each. */
  readonly failures: Readonly<Record<string, number>>;
  readonly seconds: number;
  readonly ttftMs: PercentilesOrNull;
  readonly itlMs: PercentilesOrNull;
  readonly outputTokens: number;
  readonly outputTokensPerSecond: number;
  readonly promptTokens: number;
  readonly promptTokensPerSecond: number;
  readonly cachedTokens: number;
}

/** What an engine in this process did meanwhile. */
export interface EngineFigures {
  readonly preemptions: number;
  readonly steps: number;
  /** Of the time in which steps ran, what this thread worked for them. */
  readonly hostShare: number;
}

/** Times from a request to the first piece of each of its answers, rising. */
export function firstTimes(asked: readonly Asked[]): Float64Array {
  const firsts = asked.flatMap(({ askedMs, answersMs }) =>
    answersMs.flatMap((times) => (times.length > 0 ? [times[0] - askedMs] : [])),
  );
  return Float64Array.from(firsts).sort();
}

/** Times between an answer's pieces, rising. */
export function betweenTimes(asked: readonly Asked[]): Float64Array {
  const between = asked.flatMap(({ answersMs }) =>
    answersMs.flatMap((times) => times.slice(1).map((time, i) => time - times[i])),
  );
  return Float64Array.from(between).sort();
}

/** Seconds until the last piece came. */
function lastSecond(asked: readonly Asked[]): number {
  const last = ({ answersMs }: Asked) => Math.max(0, ...answersMs.map((each) => each.at(-1) ?? 0));
  return asked.reduce((most, each) => Math.max(most, last(each)), 0) / 1e3;
}

/** The figures of requests that were put. */
export function figuresOf(asked: readonly Asked[]): Figures {
  const seconds = lastSecond(asked);
  const sum = (field: "promptTokens" | "cachedTokens" | "outputTokens") =>
    asked.reduce((total, each) => total + each[field], 0);
  const [outputTokens, promptTokens] = [sum("outputTokens"), sum("promptTokens")];
  const failures: Record<string, number> = {};
  for (const { failure } of asked)
    if (failure !== undefined) failures[failure] = (failures[failure] ?? 0) + 1;
  const whole = asked.filter(({ failure }) => failure === undefined);
  return {
    answers: whole.reduce((total, { answersMs }) => total + answersMs.length, 0),
    failed: asked.length - whole.length,
    failures,
    seconds,
    ttftMs: percentilesOf(firstTimes(asked)),
    itlMs: percentilesOf(betweenTimes(asked)),
    outputTokens,
    outputTokensPerSecond: outputTokens / (seconds || 1),
    promptTokens,
    promptTokensPerSecond: promptTokens / (seconds || 1),
    cachedTokens: sum("cachedTokens"),
  };
}

/** What an engine did between two snapshots. */
export function engineFigures(before: EngineStats, after: EngineStats): EngineFigures {
  const grown = (field: keyof EngineStats) => after[field] - before[field];
  return {
    preemptions: grown("preemptions"),
    steps: grown("steps"),
    hostShare: grown("hostSeconds") / (grown("busySeconds") || 1),
  };
}

/** The figures in words. */
export function figureRows(
  figures: Figures,
  engine: EngineFigures | undefined,
  lag: PercentilesOrNull & { max: number | null },
): [name: string, value: string][] {
  const { ttftMs, itlMs, promptTokens, cachedTokens } = figures;
  const ms = (value: number | null) => (value === null ? "-" : `${value.toFixed(2)} ms`);
  const spread = ({ p50, p99 }: PercentilesOrNull) => `${ms(p50)} p50, ${ms(p99)} p99`;
  const rate = (value: number) => value.toFixed(1);
  const failures = Object.entries(figures.failures).map(([reason, count]): [string, string] => [
    "failed",
    `${count}: ${reason}`,
  ]);
  return [
    ["answers", `${figures.answers} in ${figures.seconds.toFixed(2)} s`],
    ...failures,
    ["time to first token", spread(ttftMs)],
    ["time between tokens", spread(itlMs)],
    ["output tokens", `${figures.outputTokens}, ${rate(figures.outputTokensPerSecond)} per second`],
    ["prompt tokens", `${promptTokens}, ${rate(figures.promptTokensPerSecond)} per second`],
    ["found cached", share(cachedTokens, promptTokens)],
    ...engineRows(engine),
    ["event loop late by", `${spread(lag)}, ${ms(lag.max)} at most`],
  ];
}

function engineRows(engine: EngineFigures | undefined): [string, string][] {
  if (engine === undefined) return [];
  return [
    ["preemptions", String(engine.preemptions)],
    ["steps", String(engine.steps)],
    ["host", share(engine.hostShare, 1)],
  ];
}
