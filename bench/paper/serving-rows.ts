import { parallelLoads, type Row, scheduledLoads } from "../serving/rows.ts";

/** What an engine is told apart by. */
export interface EngineKind {
  /** False: a shared prefix is read by each request. */
  readonly cascade: boolean;
  /** False: rows are not cut, and taken in the order of the batch. */
  readonly planned: boolean;
}

/** A load on an engine; `mostTtftMs`: of `rates` the highest is searched whose p99 stays below. */
export interface ServingCase {
  readonly id: string;
  readonly kind: EngineKind;
  readonly row: Row;
  readonly mostTtftMs?: number;
  readonly rates?: readonly [least: number, most: number];
}

/** What is kept of a case; times in milliseconds. */
export interface ServingResult {
  readonly day: string;
  readonly machine: string;
  readonly requests: number;
  /** For which they came. */
  readonly seconds: number;
  readonly itlMs: readonly [p50: number, p99: number];
  readonly ttftMs: readonly [p50: number, p99: number];
  readonly tokensPerSecond: number;
  readonly hostShare: number;
  /** Requests per second. */
  readonly rate: number;
  /** Of a search for the highest one: no rate above it was tried. */
  readonly isHighestTried?: boolean;
}

/** Of the paper's G.3: milliseconds between tokens by load, with its scheduler and without. */
export const scheduledPaper = [
  [8.96, 9.16],
  [8.21, 8.42],
  [8.63, 13.89],
] as const;

const usual = { cascade: true, planned: true };

/** Names of the two sides of a table. */
export const sides = ["on", "off"] as const;

// In each table what says most comes first, as time may end.
const g3 = sides.flatMap((side) =>
  scheduledLoads.toReversed().map((row) => ({
    id: `g3/${side}/${row.name}`,
    kind: { ...usual, planned: side === "on" },
    row,
  })),
);

const samplesInTurn = [4, 16, 64, 2, 8, 32, 1];
const figure10 = samplesInTurn.flatMap((count) =>
  sides.map((side) => ({
    id: `figure10/${side}/${count}`,
    kind: { ...usual, cascade: side === "on" },
    row: parallelLoads.find(({ samples }) => samples === count)!,
  })),
);

const searched = [
  [32, 256],
  [4, 32],
] as const;
const figure7 = scheduledLoads.slice(0, 2).map((row, i) => ({
  id: `figure7/${row.name.split(",")[0]}`,
  kind: usual,
  row,
  mostTtftMs: 200,
  rates: searched[i],
}));

/** In an order in which an engine is made twice. */
export const servingCases: readonly ServingCase[] = [...g3, ...figure10, ...figure7].sort(
  (a, b) => Number(b.kind.planned) - Number(a.kind.planned),
);
