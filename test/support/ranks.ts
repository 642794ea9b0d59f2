/** Engines of several ranks: test/engine/ranks.ts under mpirun. */
import { expect } from "bun:test";
import type { GenerateOptions } from "../../src/engine/index.ts";
import { type RanksRun, runRanks } from "./mpirun.ts";

/** Of one token. */
export interface LogProb {
  logProb: number;
  top: { token: number; logProb: number }[];
}

/** What rank 0 says at its end. */
export interface RanksLeft {
  answers: { tokens: number[]; reason: string; logProbs: LogProb[] }[];
  pagesUsed: number;
  left: number;
  steps: number;
  /** By turn, how often what was gathered or told: by operation, dtype and bytes. */
  traffic: Record<string, number>[];
}

/** How ranks are asked. */
export interface RanksAsk {
  options?: object;
  /** Of ranks above 0, where they differ. */
  others?: object;
  /** Requests by their index that are ended after so many tokens. */
  aborts?: object;
  /** Whether each is asked when the one before has ended. */
  inTurn?: boolean;
  /** Default: plans are compared. */
  environment?: Record<string, string>;
  /** Of rank 1, one of test/engine/faulty-rank.ts. */
  fault?: string;
  /** As many as mpirun starts; default tp. */
  started?: number;
}

/** Few pages, of which requests lose some on the way. */
const fewPages = { pages: 24, pageSize: 4, tokenBudget: 8, maxBatch: 3 };

/** Runs `tp` ranks that are asked these requests. */
export async function startRanks(
  tp: number,
  path: string,
  requests: readonly GenerateOptions[],
  ask: RanksAsk = {},
): Promise<RanksRun> {
  const { environment = { FLASHBUN_SYNC: "1" }, started = tp, fault, ...rest } = ask;
  const parts = { options: fewPages, aborts: {}, inTurn: false, ...rest };
  const job = JSON.stringify({ path, tp, requests, ...parts });
  const [program, args] = fault ? ["faulty-rank", [job, fault]] : ["ranks", [job]];
  return await runRanks(started, `engine/${program}.ts`, args, { environment });
}

/** What they answer, of ranks that end well. */
export async function askRanks(...ask: Parameters<typeof startRanks>): Promise<RanksLeft> {
  const { code, stdout, stderr } = await startRanks(...ask);
  expect(stderr).toBe("");
  expect(code).toBe(0);
  return JSON.parse(stdout) as RanksLeft;
}
