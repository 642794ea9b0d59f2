import { OptionError, requireInteger } from "../errors.ts";
import type { Batch, OutOfPages } from "../kv/batch.ts";
import { PrefixIndex } from "../kv/prefix-index.ts";
import type { Sequence, SequencePool } from "../kv/sequence.ts";
import { Job } from "./job.ts";
import { outputToken } from "./rows.ts";
import type { ReplayRequest } from "./types.ts";

/** Limits of a scheduler. */
export interface SchedulerOptions {
  /** Most tokens a step. */
  tokenBudget: number;
  /** Most requests that run at once. */
  maxBatch: number;
  /** Arrivals are this many times as fast; Infinity: all at once. */
  speed: number;
  seed: number;
  /** Pages that a window passed are free again: keys before a query that it sees; absent: all. */
  windowLeft?: number;
  /** Reserves a step of so many tokens in all; absent: the pool does, without padding. */
  reserve?(
    sequences: readonly Sequence[],
    newTokens: Int32Array,
    tokens: number,
  ): Batch | OutOfPages;
}

/** One step as scheduled; the same object each time. */
export interface ScheduledStep {
  batch: Batch;
  /** In the batch's order, [count]. */
  jobs: Job[];
  sequences: Sequence[];
  decodeTokens: number;
  prefillTokens: number;
}

/**
 * Continuous batching over a pool of pages, as a pure policy: every step takes one token of each
 * request that generates, fills the token budget with chunks of prompts in order of arrival, and
 * admits waiting requests while their prompts fit. Cached prefixes are reused; when pages run out,
 * unused cached ones go first, then the latest arrival is preempted and recomputed later.
 */
export class Scheduler implements Disposable {
  readonly jobs: readonly Job[];
  readonly index: PrefixIndex;
  /** Those with pages, in prefix order; not for callers to change. */
  readonly running: Job[] = [];
  preemptions = 0;
  finishedCount = 0;
  readonly #pool: SequencePool;
  readonly #options: SchedulerOptions;
  /** Preempted jobs, the earliest arrival last: later arrivals are always preempted first. */
  readonly #preempted: Job[] = [];
  /** Those that gained a token by the last advance. */
  readonly #gained: Job[] = [];
  readonly #step: ScheduledStep;
  /** Of `jobs`: those that have arrived, and those that have ever been admitted. */
  #arrived = 0;
  #admitted = 0;
  /** True after a job did not fit, until pages come back. */
  #full = false;
  /** True after a job came, until the running ones are put in prefix order. */
  #unsorted = false;
  #sequences: Sequence[] = [];
  #ordered: Job[] = [];
  #order = new Int32Array(0);
  #newTokens = new Int32Array(0);
  /** By count, the first so many of #newTokens. */
  readonly #views: Int32Array[] = [];

  /** Errors: OptionError, also for a request that all pages together cannot hold. */
  constructor(pool: SequencePool, requests: readonly ReplayRequest[], options: SchedulerOptions) {
    requireInteger("tokenBudget", options.tokenBudget, 1);
    requireInteger("maxBatch", options.maxBatch, 1, options.tokenBudget);
    if (!(options.speed > 0)) {
      throw new OptionError("speed", options.speed, "above 0", "use Infinity for back to back.");
    }
    this.#pool = pool;
    this.#options = options;
    this.index = new PrefixIndex(pool);
    const jobs = requests.map((request) => new Job(request, options.speed));
    for (const job of jobs) this.#checkFits(job);
    this.jobs = jobs.sort((a, b) => a.arrivalSeconds - b.arrivalSeconds);
    jobs.forEach((job, rank) => (job.rank = rank));
    this.#order = new Int32Array(options.maxBatch);
    this.#newTokens = new Int32Array(options.maxBatch);
    this.#step = {
      batch: undefined as unknown as Batch,
      jobs: [],
      sequences: [],
      decodeTokens: 0,
      prefillTokens: 0,
    };
  }

  get done(): boolean {
    return this.finishedCount === this.jobs.length;
  }

  /** Requests that have arrived and have no pages. */
  get waitingCount(): number {
    return this.#preempted.length + this.#arrived - this.#admitted;
  }

  /** When the next request arrives, Infinity after the last. */
  get nextArrival(): number {
    return this.#arrived < this.jobs.length ? this.jobs[this.#arrived].arrivalSeconds : Infinity;
  }

  /**
   * The next step, with its pages reserved, or null while nothing has arrived. Queue its kernels,
   * then call `advance`, and `stamp` when they are through.
   */
  step(now: number): ScheduledStep | null {
    const { jobs } = this;
    while (this.#arrived < jobs.length && jobs[this.#arrived].arrivalSeconds <= now)
      this.#arrived++;
    const budget = this.#assign();
    this.#admit(budget);
    if (this.running.length === 0) return null;
    if (this.#unsorted) this.#sortRunning();
    while (true) {
      this.#gather();
      const batch = this.#reserve();
      if (batch.ok) {
        this.#step.batch = batch;
        return this.#step;
      }
      if (this.#evict(batch.pagesMissing)) continue;
      this.#full = true;
      if (this.running.length === 1) throw batch.error;
      this.#preemptLatest();
    }
  }

  /**
   * Moves on to after the step, which the device may still run: later steps see its K/V. Its
   * prompts may be shared, and sequences that are whole gain a token; returns how many did.
   */
  advance(): number {
    const { jobs } = this.#step;
    const gained = this.#gained;
    let count = 0;
    for (let i = 0; i < jobs.length; i++) {
      const job = jobs[i];
      const sequence = job.sequence!;
      const computed = sequence.length;
      if (computed <= job.promptLength || job.scheduled > 1)
        this.index.insert(job.tokens.subarray(0, computed), sequence);
      job.scheduled = 0;
      if (computed < job.length) continue;
      job.tokens[job.length++] = outputToken(this.#options.seed, job.request.id, job.generated++);
      gained[count++] = job;
      if (job.finished) this.#finish(job);
    }
    gained.length = count;
    this.#dropStopped();
    return count;
  }

  /** Notes when the tokens of the last `advance` came out. */
  stamp(now: number): void {
    for (let i = 0; i < this.#gained.length; i++) {
      const { tokenSeconds, generated } = this.#gained[i];
      tokenSeconds[generated - 1] = now;
    }
  }

  /** Frees all sequences and cached pages. */
  [Symbol.dispose](): void {
    for (const job of this.running) {
      job.sequence!.free();
      job.sequence = null;
    }
    this.running.length = 0;
    this.index.clear();
  }

  /**
   * Gives one token to each that generates, the rest to prompts by arrival; returns what is left.
   */
  #assign(): number {
    let left = this.#options.tokenBudget;
    let prompts = 0;
    for (let i = 0; i < this.running.length; i++) {
      const job = this.running[i];
      const decodes = job.length - job.sequence!.length === 1;
      job.scheduled = decodes ? 1 : 0;
      if (decodes) left--;
      else prompts++;
    }
    for (; prompts > 0 && left > 0; prompts--) {
      const job = this.#earliestIdle();
      job.scheduled = Math.min(left, job.length - job.sequence!.length);
      left -= job.scheduled;
    }
    return left;
  }

  #earliestIdle(): Job {
    let earliest: Job | undefined;
    for (let i = 0; i < this.running.length; i++) {
      const job = this.running[i];
      if (job.scheduled > 0) continue;
      if (earliest === undefined || isBefore(job, earliest)) earliest = job;
    }
    return earliest!;
  }

  #admit(budget: number): void {
    const { maxBatch } = this.#options;
    if (budget === 0 || this.#full || this.running.length === maxBatch) return;
    let promised = this.#promisedPages();
    while (budget > 0 && this.running.length < maxBatch) {
      const preempted = this.#preempted.length > 0;
      if (!preempted && this.#admitted === this.#arrived) return;
      const job = preempted
        ? this.#preempted[this.#preempted.length - 1]
        : this.jobs[this.#admitted];
      if (!this.#start(job, promised)) {
        this.#full = true;
        return;
      }
      if (preempted) this.#preempted.pop();
      else this.#admitted++;
      job.scheduled = Math.min(budget, job.length - job.sequence!.length);
      budget -= job.scheduled;
      this.running.push(job);
      this.#unsorted = true;
      promised += this.#promisedTo(job);
    }
  }

  /** Pages that those who run will take for what they know, and one more each to go on. */
  #promisedPages(): number {
    let pages = 0;
    for (let i = 0; i < this.running.length; i++) pages += this.#promisedTo(this.running[i]);
    return pages;
  }

  #promisedTo(job: Job): number {
    return 1 + Math.max(0, this.#pagesFor(job.length) - job.sequence!.pageCount);
  }

  /** Gives a job a sequence, from cached pages where it can; false when its tokens do not fit. */
  #start(job: Job, promised: number): boolean {
    const pool = this.#pool;
    const { allocator } = pool.groups[0];
    const match = this.index.match(job.tokens.subarray(0, job.length - 1));
    // Not the promised ones, so that nobody is preempted at once.
    const needed = this.#pagesFor(job.length) - match.tokens / pool.pageSize + promised;
    const alone = this.running.length === 0;
    if (!alone && needed > allocator.freeCount + this.index.stats.pages) return false;
    const sequence = pool.create({ prefix: match });
    if (needed > allocator.freeCount) this.index.evict(needed - allocator.freeCount);
    if (!alone && needed > allocator.freeCount) {
      sequence.free();
      return false;
    }
    job.sequence = sequence;
    if (job.cachedTokens < 0) job.cachedTokens = match.tokens;
    return true;
  }

  /** Pages that a sequence of so many tokens holds at most. */
  #pagesFor(tokens: number): number {
    const { windowLeft, tokenBudget } = this.#options;
    const { pageSize } = this.#pool;
    const held =
      windowLeft === undefined ? tokens : Math.min(tokens, windowLeft + tokenBudget + 2 * pageSize);
    return Math.ceil(held / pageSize);
  }

  #checkFits(job: Job): void {
    const { id } = job.request;
    requireInteger(`requests[${id}].promptTokens.length`, job.promptLength, 1);
    requireInteger(`requests[${id}].outputTokens`, job.outputLength, 1);
    // The last token that comes out is never put in.
    const needed = this.#pagesFor(job.tokens.length - 1);
    const pages = this.#pool.groups[0].allocator.pageCount;
    if (needed <= pages) return;
    throw new OptionError(
      "pages",
      pages,
      `at least the ${needed} that request ${id} alone needs`,
      "use more pages, or shorten the requests by --scale-lengths.",
    );
  }

  /**
   * Puts the running jobs in prefix order, which lets neighbours share levels; leaving keeps it.
   */
  #sortRunning(): void {
    this.#unsorted = false;
    const running = this.running;
    const sequences = this.#sequences;
    const ordered = this.#ordered;
    sequences.length = ordered.length = running.length;
    for (let i = 0; i < running.length; i++) {
      sequences[i] = running[i].sequence!;
      ordered[i] = running[i];
    }
    this.index.order(sequences, this.#order);
    for (let i = 0; i < running.length; i++) running[i] = ordered[this.#order[i]];
  }

  #reserve(): Batch | OutOfPages {
    const { sequences, decodeTokens, prefillTokens } = this.#step;
    const counts = this.#countsOf(sequences.length);
    if (this.#options.reserve === undefined) return this.#pool.reserve(sequences, counts);
    return this.#options.reserve(sequences, counts, decodeTokens + prefillTokens);
  }

  /** Lists the running jobs that have tokens in this step. */
  #gather(): void {
    const step = this.#step;
    let count = 0;
    step.decodeTokens = step.prefillTokens = 0;
    for (let i = 0; i < this.running.length; i++) {
      const job = this.running[i];
      if (job.scheduled === 0) continue;
      step.jobs[count] = job;
      step.sequences[count] = job.sequence!;
      this.#newTokens[count++] = job.scheduled;
      if (job.generated > 0 && job.scheduled === 1) step.decodeTokens++;
      else step.prefillTokens += job.scheduled;
    }
    step.jobs.length = step.sequences.length = count;
  }

  /** The counts as an array of exactly that length, made once for each length. */
  #countsOf(count: number): Int32Array {
    let view = this.#views[count];
    if (view === undefined) this.#views[count] = view = this.#newTokens.subarray(0, count);
    return view;
  }

  /** Frees cached pages that no sequence uses; false when there are none. */
  #evict(pages: number): boolean {
    if (this.index.evict(pages) > 0) return true;
    // The index gives pages up from a prompt's end, where a window still stands: let go of all.
    if (this.#options.windowLeft === undefined || this.index.stats.pages === 0) return false;
    this.index.clear();
    return true;
  }

  /** Takes the pages of the latest arrival; what it computed stays cached until it is evicted. */
  #preemptLatest(): void {
    const running = this.running;
    let latest = 0;
    for (let i = 1; i < running.length; i++) if (isBefore(running[latest], running[i])) latest = i;
    const job = running[latest];
    const sequence = job.sequence!;
    this.index.insert(job.tokens.subarray(0, sequence.length), sequence);
    sequence.free();
    job.sequence = null;
    job.scheduled = 0;
    job.preemptions++;
    this.preemptions++;
    running.splice(latest, 1);
    this.#preempted.push(job);
  }

  #finish(job: Job): void {
    job.sequence!.free();
    job.sequence = null;
    this.finishedCount++;
    this.#full = false;
  }

  #dropStopped(): void {
    const running = this.running;
    let kept = 0;
    for (let i = 0; i < running.length; i++) {
      if (running[i].sequence !== null) running[kept++] = running[i];
    }
    running.length = kept;
  }
}

/** Whether a arrived before b. */
function isBefore(a: Job, b: Job): boolean {
  return a.rank < b.rank;
}
