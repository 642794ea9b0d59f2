import type { EngineStats } from "../../engine/index.ts";
import { percentilesOf, type PercentilesOrNull } from "../../replay/metrics.ts";
import { share, table } from "../table.ts";
import { type DraftFigures, draftFigures, draftsText } from "./drafts.ts";
import type { Answered } from "./drive.ts";

/** What a benchmark measured; times in milliseconds at the client, by token. */
export interface Figures {
  readonly answers: number;
  readonly seconds: number;
  readonly ttftMs: PercentilesOrNull;
  readonly itlMs: PercentilesOrNull;
  readonly outputTokens: number;
  readonly outputTokensPerSecond: number;
  readonly promptTokens: number;
  readonly promptTokensPerSecond: number;
  readonly cachedTokens: number;
  readonly preemptions: number;
  readonly steps: number;
  /** Of the time in which steps ran, what this thread worked for them. */
  readonly hostShare: number;
  /** Absent where nothing was drafted. */
  readonly drafts?: DraftFigures;
}

/** The figures of answers between two snapshots of an engine. */
export function figuresOf(
  answers: readonly Answered[],
  before: EngineStats,
  after: EngineStats,
): Figures {
  const first = answers.flatMap(({ asked, times }) => (times.length > 0 ? [times[0] - asked] : []));
  const between = answers.flatMap(({ times }) => times.slice(1).map((time, i) => time - times[i]));
  const last = answers.reduce((most, { times }) => Math.max(most, times.at(-1) ?? 0), 0);
  const rising = (times: number[]) => percentilesOf(Float64Array.from(times).sort());
  const seconds = last / 1e3;
  const outputTokens = answers.reduce((sum, { times }) => sum + times.length, 0);
  const grown = (field: keyof EngineStats) => after[field] - before[field];
  const promptTokens = grown("promptTokens");
  const drafts = draftFigures(after, before);
  return {
    answers: answers.length,
    seconds,
    ttftMs: rising(first),
    itlMs: rising(between),
    outputTokens,
    outputTokensPerSecond: outputTokens / seconds,
    promptTokens,
    promptTokensPerSecond: promptTokens / seconds,
    cachedTokens: grown("cachedTokens"),
    preemptions: grown("preemptions"),
    steps: grown("steps"),
    hostShare: grown("hostSeconds") / grown("busySeconds"),
    ...(drafts && { drafts }),
  };
}

/** The figures in words. */
export function figuresTable(figures: Figures): string {
  const { ttftMs, itlMs, promptTokens, cachedTokens } = figures;
  const ms = (value: number | null) => (value === null ? "-" : `${value.toFixed(2)} ms`);
  const spread = ({ p50, p99 }: PercentilesOrNull) => `${ms(p50)} p50, ${ms(p99)} p99`;
  const rate = (value: number) => value.toFixed(1);
  return table(
    [
      ["answers", `${figures.answers} in ${figures.seconds.toFixed(2)} s`],
      ["time to first token", spread(ttftMs)],
      ["time between tokens", spread(itlMs)],
      [
        "output tokens",
        `${figures.outputTokens}, ${rate(figures.outputTokensPerSecond)} per second`,
      ],
      ["prompt tokens", `${promptTokens}, ${rate(figures.promptTokensPerSecond)} per second`],
      ["found cached", share(cachedTokens, promptTokens)],
      ["preemptions", String(figures.preemptions)],
      ["steps", String(figures.steps)],
      ["host", share(figures.hostShare, 1)],
      ...(figures.drafts ? [["drafts", draftsText(figures.drafts)]] : []),
    ],
    [0, 1],
  );
}
