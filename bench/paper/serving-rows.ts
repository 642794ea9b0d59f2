import { parallelLoads, type Row, scheduledLoads } from "../serving/rows.ts";

/** What an engine is told apart by. */
export interface EngineKind {
  /** False: a shared prefix is read by each request. */
  readonly cascade: boolean;
  /** False: rows are not cut, and taken in the order of the batch. */
  readonly planned: boolean;
}

/** A load on an engine; `mostTtftMs`: the highest rate is searched whose p99 stays below. */
export interface ServingCase {
  readonly id: string;
  readonly kind: EngineKind;
  readonly row: Row;
  readonly mostTtftMs?: number;
}

/** What is kept of a case; times in milliseconds. */
export interface ServingResult {
  readonly day: string;
  readonly machine: string;
  readonly requests: number;
  readonly itlMs: readonly [p50: number, p99: number];
  readonly ttftMs: readonly [p50: number, p99: number];
  readonly tokensPerSecond: number;
  readonly hostShare: number;
  /** Requests per second. */
  readonly rate: number;
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

const g3 = sides.flatMap((side) =>
  scheduledLoads.map((row) => ({
    id: `g3/${side}/${row.name}`,
    kind: { ...usual, planned: side === "on" },
    row,
  })),
);

const figure10 = sides.flatMap((side) =>
  parallelLoads.map((row) => ({
    id: `figure10/${side}/${row.samples}`,
    kind: { ...usual, cascade: side === "on" },
    row,
  })),
);

const figure7 = scheduledLoads.slice(0, 2).map((row) => ({
  id: `figure7/${row.name.split(",")[0]}`,
  kind: usual,
  row,
  mostTtftMs: 200,
}));

/** In an order in which an engine is seldom made anew. */
export const servingCases: readonly ServingCase[] = [...g3, ...figure10, ...figure7].sort(
  (a, b) => rankOf(a.kind) - rankOf(b.kind),
);

function rankOf({ cascade, planned }: EngineKind): number {
  return (cascade ? 0 : 1) + (planned ? 0 : 2);
}
