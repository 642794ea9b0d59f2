import type { PrefixIndex } from "../kv/prefix-index.ts";
import type { Sequence } from "../kv/sequence.ts";
import type { Job } from "./job.ts";

/** Jobs with pages. */
export class Running {
  /** In prefix order once sorted. */
  readonly jobs: Job[] = [];
  /** True after a job came, until the next sort; leaving keeps the order. */
  #unsorted = false;
  readonly #sequences: Sequence[] = [];
  readonly #before: Job[] = [];
  readonly #order: Int32Array;

  /** @param maxBatch most jobs at once */
  constructor(maxBatch: number) {
    this.#order = new Int32Array(maxBatch);
  }

  get count(): number {
    return this.jobs.length;
  }

  /** Adds a job that has a sequence. */
  add(job: Job): void {
    this.jobs.push(job);
    this.#unsorted = true;
  }

  /**
   * Schedules one token of each job that generates, unless it waits for its last one, then drafts
   * in at most half of what is left, then in order chunks of those that do not generate yet: one,
   * or after a rollback all that had started. Returns what is left of `tokens`.
   */
  schedule(tokens: number): number {
    const { jobs } = this;
    let left = tokens;
    let prompts = 0;
    for (let i = 0; i < jobs.length; i++) {
      const job = jobs[i];
      const generates = job.length - job.computed === 1;
      job.scheduled = generates && !job.waits ? 1 : 0;
      left -= job.scheduled;
      if (!generates) prompts++;
    }
    left -= this.#scheduleDrafts(left >> 1);
    for (; prompts > 0 && left > 0; prompts--) {
      const prompt = this.#firstIdle();
      prompt.scheduled = Math.min(left, prompt.length - prompt.computed);
      left -= prompt.scheduled;
    }
    return left;
  }

  /** Schedules at most so many drafts of those that generate; returns how many. */
  #scheduleDrafts(most: number): number {
    const { jobs } = this;
    let left = most;
    for (let i = 0; i < jobs.length; i++)
      if (jobs[i].scheduled > 0) left -= jobs[i].takeDrafts(left);
    return most - left;
  }

  /** Takes all drafts out of the step to be; false where there are none. */
  dropDrafts(): boolean {
    const { jobs } = this;
    let dropped = false;
    for (let i = 0; i < jobs.length; i++) dropped = jobs[i].dropDrafts() || dropped;
    return dropped;
  }

  /** Whose turn is first among those with a prompt and no tokens in the step; there is one. */
  #firstIdle(): Job {
    const { jobs } = this;
    let first: Job | undefined;
    for (let i = 0; i < jobs.length; i++) {
      const job = jobs[i];
      const isIdle = job.scheduled === 0 && job.length - job.computed > 1;
      if (isIdle && (first === undefined || job.isBefore(first))) first = job;
    }
    return first!;
  }

  /** Whose turn is after all others'. */
  last(): Job {
    const { jobs } = this;
    let last = jobs[0];
    for (let i = 1; i < jobs.length; i++) if (last.isBefore(jobs[i])) last = jobs[i];
    return last;
  }

  /**
   * Puts jobs of one adapter side by side, and of these such with the same leading pages, so that a
   * batch can share them.
   */
  sort(index: PrefixIndex): void {
    if (!this.#unsorted) return;
    this.#unsorted = false;
    const { jobs } = this;
    const sequences = this.#sequences;
    const before = this.#before;
    sequences.length = before.length = jobs.length;
    for (let i = 0; i < jobs.length; i++) {
      sequences[i] = jobs[i].sequence!;
      before[i] = jobs[i];
    }
    index.order(sequences, this.#order);
    for (let i = 0; i < jobs.length; i++) jobs[i] = before[this.#order[i]];
    // No page is shared across adapters, and the sort is stable.
    if (jobs.some(({ adapter }) => adapter !== jobs[0].adapter))
      jobs.sort((a, b) => a.adapter - b.adapter);
  }

  /** Lets go of jobs that have no sequence any more. */
  drop(): void {
    const { jobs } = this;
    let kept = 0;
    for (let i = 0; i < jobs.length; i++) {
      if (jobs[i].sequence !== null) jobs[kept++] = jobs[i];
    }
    jobs.length = kept;
  }
}
