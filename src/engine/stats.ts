import type { Usage } from "../serve/usage.ts";
import type { DraftCounts } from "./speculation.ts";

/** An engine at one moment. */
export interface EngineStats {
  /** Requests that wait or run. */
  readonly requests: number;
  readonly waiting: number;
  readonly running: number;
  readonly pages: number;
  /** Held by requests that run or kept for prompts to come. */
  readonly pagesUsed: number;
  /** Of the requests that got pages so far. */
  readonly promptTokens: number;
  /** Of those, found in cached pages. */
  readonly cachedTokens: number;
  readonly generatedTokens: number;
  readonly preemptions: number;
  readonly steps: number;
  /** Seconds in which requests ran, and those of them that this thread worked on steps. */
  readonly busySeconds: number;
  readonly hostSeconds: number;
  /** Times that a request had drafts in a step, how many, and how many of them stood. */
  readonly drafts: number;
  readonly draftedTokens: number;
  readonly acceptedTokens: number;
}

/** What a loop has counted. */
export interface LoopCounts {
  steps: number;
  /** Tokens that requests took: none behind what ended them. */
  generatedTokens: number;
  busySeconds: number;
  hostSeconds: number;
}

/** The snapshot of a scheduler and its loop. */
export function statsOf(usage: Usage, counts: LoopCounts, drafts: DraftCounts): EngineStats {
  const { waiting, running, promptTokens, cachedTokens, preemptions } = usage;
  let pages = 0;
  let pagesUsed = 0;
  for (const { total, free } of usage.pages) {
    pages += total;
    pagesUsed += total - free;
  }
  return {
    requests: waiting + running,
    waiting,
    running,
    pages,
    pagesUsed,
    promptTokens,
    cachedTokens,
    preemptions,
    ...counts,
    ...drafts,
  };
}
