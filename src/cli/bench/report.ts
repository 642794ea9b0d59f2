import {
  type BarChart,
  chartPage,
  histogram,
  type Line,
  type LineChart,
} from "../../replay/chart-page.ts";
import { betweenTimes, type Figures, firstTimes } from "./figures.ts";
import type { Asked } from "./target.ts";

/** What a report says beside its charts. */
export interface ReportTexts {
  /** What was measured. */
  readonly title: string;
  /** Under which load. */
  readonly load: string;
  /** What ran, and when. */
  readonly about: string;
  readonly rows: [name: string, value: string][];
}

const binsMost = 120;

/** Over time, in equal bins: pieces per second, requests that wait, and requests that stream. */
export function overTime(asked: readonly Asked[], seconds: number) {
  const pieces = asked.flatMap(({ answersMs }) => answersMs.flat());
  const bins = Math.max(1, Math.min(binsMost, Math.floor(pieces.length / 4)));
  const width = Math.max(seconds, 1e-3) / bins;
  const x = Array.from({ length: bins }, (_, bin) => (bin + 0.5) * width);
  const rate = x.map(() => 0);
  for (const time of pieces) rate[Math.min(bins - 1, Math.floor(time / 1e3 / width))] += 1 / width;
  const spans = asked.map(({ askedMs, answersMs }) => {
    const firsts = answersMs.flatMap((times) => times.slice(0, 1));
    const lasts = answersMs.flatMap((times) => times.slice(-1));
    return { from: askedMs / 1e3, first: Math.min(...firsts) / 1e3, to: Math.max(...lasts) / 1e3 };
  });
  const answered = spans.filter(({ first }) => Number.isFinite(first));
  const at = (test: (span: (typeof spans)[0], time: number) => boolean) =>
    x.map((time) => answered.filter((span) => test(span, time)).length);
  return {
    x,
    rate,
    waiting: at(({ from, first }, time) => from <= time && time < first),
    streaming: at(({ first, to }, time) => first <= time && time <= to),
  };
}

/** The report of a benchmark: one HTML page that needs nothing but itself. */
export function benchPage(
  asked: readonly Asked[],
  figures: Figures,
  { title, load, about, rows }: ReportTexts,
): Promise<string> {
  const { x, rate, waiting, streaming } = overTime(asked, figures.seconds);
  const { ttftMs, itlMs, failed } = figures;
  const number = (value: number | null) =>
    value === null ? "-" : value.toLocaleString("en-US", { maximumSignificantDigits: 4 });
  const lines = (...all: Line[]): LineChart => ({ kind: "lines", x, lines: all });
  const bars = (label: string, sorted: Float64Array): BarChart => {
    return { kind: "bars", label, colour: "blue", histogram: histogram(sorted) };
  };
  const cached = (100 * figures.cachedTokens) / (figures.promptTokens || 1);
  return chartPage({
    title,
    subtitle: load,
    about,
    ...(failed > 0 && { note: `${failed} requests failed: the summary says why.` }),
    tiles: [
      ["Answers", number(figures.answers), "", `in ${number(figures.seconds)} s`],
      ["Output", number(figures.outputTokensPerSecond), " tokens/s", "all answers together"],
      ["First token", number(ttftMs.p50), " ms", `p99 ${number(ttftMs.p99)} ms`],
      ["Between tokens", number(itlMs.p50), " ms", `p99 ${number(itlMs.p99)} ms`],
      ["Found cached", number(cached), " %", "of prompt tokens"],
    ],
    cards: [
      {
        heading: "Output (tokens/s)",
        isWide: true,
        chart: { ...lines({ label: "output", colour: "orange", values: rate }), height: 260 },
      },
      {
        heading: "Requests",
        isWide: true,
        chart: lines(
          { label: "streaming", colour: "blue", values: streaming },
          { label: "waiting", colour: "orange", values: waiting },
        ),
      },
      {
        heading: "Time to the first token (answers by ms)",
        chart: bars("answers", firstTimes(asked)),
      },
      {
        heading: "Time between tokens (tokens by ms)",
        chart: bars("tokens", betweenTimes(asked)),
      },
    ],
    rows,
  });
}
