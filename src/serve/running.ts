import { comparePages } from "../kv/share-prefixes.ts";
import type { Job } from "./job.ts";

/** Jobs with pages. */
export class Running {
  /** In prefix order once sorted. */
  readonly jobs: Job[] = [];
  /** True after a job came, until the next sort; leaving keeps the order. */
  #unsorted = false;
  /** Whether any job has drafts for the next step. */
  #hasDrafts = false;
  /** Those that a sort puts in their places. */
  readonly #moving: Job[] = [];

  get count(): number {
    return this.jobs.length;
  }

  /** Adds a job that has a sequence. */
  add(job: Job): void {
    this.jobs.push(job);
    job.sorts = 0;
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
    if (this.#hasDrafts) left -= this.#scheduleDrafts(left >> 1);
    for (; prompts > 0 && left > 0; prompts--) {
      const prompt = this.#firstIdle();
      prompt.scheduled = Math.min(left, prompt.length - prompt.computed);
      left -= prompt.scheduled;
    }
    return left;
  }

  /** Offers a job drafts for the next step, if it may have some. */
  propose(job: Job, drafts: ArrayLike<number>): void {
    this.#hasDrafts = job.propose(drafts) || this.#hasDrafts;
  }

  /** Schedules at most so many drafts of those that generate; returns how many. */
  #scheduleDrafts(most: number): number {
    const { jobs } = this;
    this.#hasDrafts = false;
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
   * batch can share them. A new job has none but pages that it shares: its place among those that
   * have the same is found again once it has pages of its own. From then on its order is settled.
   */
  sort(): void {
    if (!this.#unsorted) return;
    this.#unsorted = false;
    const { jobs } = this;
    const moving = this.#moving;
    let kept = 0;
    let moved = 0;
    for (let i = 0; i < jobs.length; i++) {
      const job = jobs[i];
      if (job.sorts < 2) moving[moved++] = job;
      else jobs[kept++] = job;
    }
    for (let i = 0; i < moved; i++) this.#place(moving[i], kept + i);
    moving.length = 0;
  }

  /** Puts a job in its place among the first `count` of the list. */
  #place(job: Job, count: number): void {
    const { jobs } = this;
    job.sorts++;
    let low = 0;
    let high = count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (order(job, jobs[middle]) < 0) high = middle;
      else low = middle + 1;
    }
    for (let i = count; i > low; i--) jobs[i] = jobs[i - 1];
    jobs[low] = job;
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

/** No page is shared across adapters. */
function order(a: Job, b: Job): number {
  return a.adapter - b.adapter || comparePages(a.sequence!, b.sequence!);
}
