import type { PageGroup } from "../kv/page-group.ts";
import type { Ending, Job } from "./job.ts";

/** Who holds the pages of one group. */
export interface PageUsage {
  readonly total: number;
  /** Of jobs that run; those that several use count once. */
  readonly running: number;
  /** Kept for prompts to come, by no job that runs: free to take. */
  readonly cached: number;
  readonly free: number;
}

/** What a scheduler has counted since its start. */
export interface Counts {
  /** Requests that ended, by why. */
  ended: Record<Ending, number>;
  preemptions: number;
  /** Prompt tokens of the requests that got pages, and those of them found in cached pages. */
  promptTokens: number;
  cachedTokens: number;
  /** Tokens put through steps, those that preempted requests computed again included. */
  computedTokens: number;
  generatedTokens: number;
}

/** A scheduler at one moment. */
export interface Usage extends Readonly<Counts> {
  /** Requests without pages: new ones, and preempted ones. */
  readonly waiting: number;
  readonly running: number;
  /** By page group. */
  readonly pages: readonly PageUsage[];
}

/** Counts at a start. */
export function noCounts(): Counts {
  return {
    ended: { length: 0, end: 0, abort: 0 },
    preemptions: 0,
    promptTokens: 0,
    cachedTokens: 0,
    computedTokens: 0,
    generatedTokens: 0,
  };
}

/** A snapshot of the counts, and of how many wait and which jobs run. */
export function usageOf(
  counts: Counts,
  waiting: number,
  running: readonly Job[],
  pages: readonly PageCounter[],
): Usage {
  return {
    ...counts,
    ended: { ...counts.ended },
    waiting,
    running: running.length,
    pages: pages.map((each) => each.count(running)),
  };
}

/** Counts the pages of one group by who holds them. */
export class PageCounter {
  readonly #group: PageGroup;
  /** By page, the last count that saw it. */
  readonly #seen: Int32Array;
  #round = 0;

  constructor(group: PageGroup) {
    this.#group = group;
    this.#seen = new Int32Array(group.allocator.pageCount);
  }

  /** Looks at every page of the jobs that run. */
  count(running: readonly Job[]): PageUsage {
    const { table } = this.#group;
    const { pageCount: total, freeCount: free } = this.#group.allocator;
    const round = ++this.#round;
    let count = 0;
    for (let i = 0; i < running.length; i++) {
      const sequence = running[i].sequence!;
      const row = table.rows.starts[sequence.slot];
      const end = row + sequence.pageCount;
      for (let at = row; at < end; at++) {
        const page = table.at(at);
        if (page < 0 || this.#seen[page] === round) continue;
        this.#seen[page] = round;
        count++;
      }
    }
    return { total, running: count, cached: total - free - count, free };
  }
}
