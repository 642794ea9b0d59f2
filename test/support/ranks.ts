/** Engines of several ranks: test/engine/ranks.ts under mpirun. */
import { expect } from "bun:test";
import type { GenerateOptions } from "../../src/engine/index.ts";
import { type RanksRun, runRanks } from "./mpirun.ts";

/** Of one token. */
export interface LogProb {
  logProb: number;
  top: { token: number; logProb: number }[];
}

/** What rank 0 says at the end of an engine. */
export interface RanksLeft {
  answers: { tokens: number[]; reason: string; logProbs: LogProb[] }[];
  pagesUsed: number;
  left: number;
  steps: number;
  /** Drafts that stood. */
  accepted: number;
  /** By turn, how often what was gathered or told: by operation, dtype and bytes. */
  traffic: Record<string, number>[];
}

/** An engine, and what it is asked. */
export interface RanksJob {
  path: string;
  requests: readonly GenerateOptions[];
  /** Default: few pages, of which requests lose some on the way. */
  options?: object;
  /** Of ranks above 0, where they differ. */
  others?: object;
  /** Requests by their index that are ended after so many tokens. */
  aborts?: object;
  /** Whether each is asked when the one before has ended. */
  inTurn?: boolean;
}

/** How ranks are started. */
export interface RanksStart {
  /** Default: plans are compared. */
  environment?: Record<string, string>;
  /** Of rank 1, one of test/engine/faulty-rank.ts. */
  fault?: string;
  /** As many as mpirun starts; default tp. */
  started?: number;
}

const fewPages = { pages: 24, pageSize: 4, tokenBudget: 8, maxBatch: 3 };

/** Runs engines of `tp` ranks, one after the other. */
export async function startRanks(
  tp: number,
  jobs: readonly RanksJob[],
  { environment = { FLASHBUN_SYNC: "1" }, fault, started = tp }: RanksStart = {},
): Promise<RanksRun> {
  const usual = { tp, options: fewPages, aborts: {}, inTurn: false, refused: false };
  const text = JSON.stringify(jobs.map((job) => ({ ...usual, ...job })));
  const [program, args] = fault ? ["faulty-rank", [text, fault]] : ["ranks", [text]];
  return await runRanks(started, `engine/${program}.ts`, args, { environment });
}

async function resultsOf<T>(...start: Parameters<typeof startRanks>): Promise<T[]> {
  const { code, stdout, stderr } = await startRanks(...start);
  expect(stderr).toBe("");
  expect(code).toBe(0);
  return JSON.parse(stdout) as T[];
}

/** What they answer, of ranks that end well. */
export async function askRanks(
  tp: number,
  jobs: readonly RanksJob[],
  start?: RanksStart,
): Promise<RanksLeft[]> {
  const results = await resultsOf<RanksLeft>(tp, jobs, start);
  expect(results.map(({ left }) => left)).toEqual(jobs.map(() => 0));
  return results;
}

/** What they say of engines that all of them refuse. */
export async function refusedByRanks(
  tp: number,
  jobs: readonly Omit<RanksJob, "requests">[],
): Promise<string[]> {
  return await resultsOf(
    tp,
    jobs.map((job) => ({ ...job, requests: [], refused: true })),
  );
}
