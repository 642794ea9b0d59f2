import { OptionError } from "../errors.ts";
import type { Batch, OutOfPages } from "../kv/batch.ts";
import { PrefixIndex } from "../kv/prefix-index.ts";
import type { SequencePool } from "../kv/sequence.ts";
import { notWritten } from "../kv/step-checks.ts";
import { requireInteger } from "../require.ts";
import { type Ending, Job } from "./job.ts";
import { idTaken, levelSecondsDefault, type SchedulerOptions } from "./options.ts";
import { JobQueue } from "./queue.ts";
import { checkRequest, requireSeconds, type ServeRequest } from "./request.ts";
import { Room } from "./room.ts";
import { Running } from "./running.ts";
import { notAdvanced, replaced, requireTokens, Step } from "./step.ts";
import { noCounts, PageCounter, type Usage, usageOf } from "./usage.ts";

const noDrafts: readonly number[] = [];

/**
 * Continuous batching over a pool of pages, as a pure policy: it knows requests, pages, lengths and
 * the `now` that it is given. `add` requests as they arrive. For each step, run what `step` returns
 * and pass the tokens that came out to `advance`.
 *
 * Order. A request's rank is its arrival plus `levelSeconds` for each level of its priority. The
 * lowest rank is first; equal ranks go by the order of `add`. Within a priority this is first come,
 * first served. Across priorities, only more urgent requests pass one, and only those that arrive
 * less than `levelSeconds` per level of difference after it.
 *
 * A step takes one token of every running request that generates, then drafts of them in at most
 * half of the budget that is left, then chunks of prompts. Waiting requests start in order, none
 * before one that does not fit, while free and cached pages cover the known tokens of all that run
 * and one page more each. Prefixes found in cached pages are not computed again, nor are those
 * under way: who shares one starts behind it and is its neighbour in the batch.
 *
 * When pages run out, cached pages that no sequence uses are freed, then drafts left out. Then the
 * running request that is last in order gives its pages up and waits at its old rank, to compute
 * its tokens again.
 *
 * No request starves: finitely many can pass it, none starts before the first that waits, and the
 * first in order of those that run has tokens in every step and is never preempted.
 */
export class Scheduler implements Disposable {
  readonly index: PrefixIndex;
  readonly #waiting = new JobQueue();
  readonly #running = new Running();
  /** Those that wait or run, by id. */
  readonly #jobs = new Map<number, Job>();
  readonly #pool: SequencePool;
  readonly #options: SchedulerOptions;
  readonly #room: Room;
  readonly #counts = noCounts();
  readonly #pages: PageCounter[];
  readonly #step: Step;
  /** True from `step` to `advance`. */
  #underWay = false;
  /**
   * True after the first that waits did not fit, until pages come back, more may be cached of its
   * prompt, or another is first.
   */
  #full = false;
  #added = 0;

  /** Takes the whole pool for itself. Errors: OptionError. */
  constructor(pool: SequencePool, options: SchedulerOptions) {
    const { tokenBudget, maxBatch, levelSeconds = levelSecondsDefault } = options;
    requireInteger("tokenBudget", tokenBudget, 1);
    requireInteger("maxBatch", maxBatch, 1, Math.min(tokenBudget, pool.maxSequences));
    requireSeconds("levelSeconds", levelSeconds);
    this.#pool = pool;
    this.#options = options;
    this.index = new PrefixIndex(pool);
    this.#room = new Room(pool, this.index, tokenBudget);
    this.#pages = pool.groups.map((group) => new PageCounter(group));
    this.#step = new Step(maxBatch, tokenBudget);
  }

  /** Jobs with pages, in the order of batches; the scheduler's own list. */
  get running(): readonly Job[] {
    return this.#running.jobs;
  }

  /** Requests that wait or run. */
  get count(): number {
    return this.#jobs.size;
  }

  /** Throws what `add` would throw, but for an id that is taken. */
  check(request: ServeRequest): void {
    checkRequest(request);
    this.#room.maxTokens(request);
  }

  /**
   * Takes a request that came at `now`, in seconds; it waits for a step. Errors: OptionError, also
   * for one that all pages together cannot hold; then it was not taken.
   */
  add(request: ServeRequest, now: number): Job {
    checkRequest(request);
    requireSeconds("now", now);
    const { id, priority = 0 } = request;
    if (this.#jobs.has(id)) throw idTaken(id);
    const maxTokens = this.#room.maxTokens(request);
    const { levelSeconds = levelSecondsDefault } = this.#options;
    const job = new Job(request, maxTokens, this.#added++, now, priority * levelSeconds);
    this.#jobs.set(id, job);
    this.#waiting.add(job);
    if (this.#waiting.first === job) this.#full = false;
    return job;
  }

  /**
   * Ends a request: at once, or with the step under way if it has tokens there. False when no
   * request of that id waits or runs.
   */
  abort(id: number): boolean {
    const job = this.#jobs.get(id);
    if (job === undefined || job.aborted) return false;
    if (this.#underWay && job.scheduled > 0) {
      job.aborted = true;
      return true;
    }
    this.#leave(job, "abort");
    return true;
  }

  /**
   * What to run next, its pages reserved, or null where nothing can; `advance` follows. Errors:
   * OptionError if it did not, OutOfPagesError if others hold pages of the pool so that not even
   * the first in order fits; then no token was lost.
   */
  step(now: number): Step | null {
    if (this.#underWay) throw notAdvanced();
    requireSeconds("now", now);
    const running = this.#running;
    const left = running.schedule(this.#options.tokenBudget);
    this.#start(left, now);
    running.sort();
    const step = this.#step;
    while (true) {
      step.list(running.jobs);
      if (step.jobs.length === 0) return null;
      const batch = this.#reserve(step);
      if (batch.ok) {
        step.batch = batch;
        this.#underWay = true;
        return step;
      }
      if (this.#room.evict(batch) || running.dropDrafts()) continue;
      this.#full = true;
      if (running.count > 1) this.#preempt(running.last());
      else if (!this.#room.forget()) throw batch.error;
    }
  }

  /**
   * Moves on to after the step, which the device may still run: later steps see its K/V, and its
   * prompts may be shared. `tokens` holds one of each of `step.sampled`, in order; that of an
   * aborted request is not looked at. Without `tokens`, and always with drafts, they are open, and
   * `~row` of step.logitRows stands for each: `tell` them before the step after the next. Errors:
   * OptionError, PlanError when not every layer of the cache has appended the step; then it is
   * still under way.
   */
  advance(step: Step, tokens?: ArrayLike<number>): void {
    this.#requireUnderWay(step);
    if (tokens !== undefined) requireTokens(step, tokens);
    if (this.#pool.state.writes.step >= 0) throw notWritten("the step", step.tokens);
    this.#underWay = false;
    const { jobs } = step;
    let row = 0;
    for (let i = 0; i < jobs.length; i++) {
      const job = jobs[i];
      const isWhole = job.computed + job.scheduled >= job.length;
      const ending = this.#settle(job, isWhole ? (tokens?.[row] ?? ~row) : undefined);
      if (isWhole) row += 1 + job.drafted;
      if (ending !== null) this.#end(job, ending);
    }
    this.#running.drop();
    if (step.prefillTokens > 0 || this.#room.hasWindows) this.#full = false;
    this.#counts.computedTokens += step.tokens;
  }

  /**
   * Says which token stands in an open place of a job, between steps, and which of the drafts of
   * its step stand before it: numbers of drafts, rising. Returns why the job ends there, or null
   * when it goes on; what came behind its end is dropped. Errors: OptionError.
   */
  tell(job: Job, place: number, token: number, accepted = noDrafts): Ending | null {
    if (this.#underWay) throw notAdvanced();
    const { length, ending } = job;
    const found = job.close(place, token, accepted);
    this.#counts.generatedTokens += job.length - length;
    if (found === null) return place === length - 1 ? ending : null;
    if (ending === null) this.#leave(job, found);
    else {
      this.#counts.ended[ending]--;
      this.#counts.ended[found]++;
      job.ending = found;
    }
    return found;
  }

  /**
   * Offers guesses at the tokens that come next of a job, for the next step alone: it verifies the
   * first so many as fit into half of the budget that is left. See {@link Job.propose}.
   */
  propose(job: Job, drafts: ArrayLike<number>): void {
    if (this.#underWay) throw notAdvanced();
    this.#running.propose(job, drafts);
  }

  /**
   * Gives back a step that failed: `advance` does not follow, and the next `step` schedules its
   * tokens again. Requests aborted meanwhile end. Errors: OptionError, PlanError when others have
   * reserved pages of the pool since; then it is still under way.
   */
  rollback(step: Step): void {
    this.#requireUnderWay(step);
    const { jobs } = step;
    if (!step.batch.stale) this.#pool.rollback(step.batch);
    // The cache may have given it back already: then the sequences are as before.
    else if (jobs.some((job) => job.sequence!.length !== job.computed)) throw replaced();
    this.#underWay = false;
    for (let i = 0; i < jobs.length; i++) {
      jobs[i].unschedule();
      if (jobs[i].aborted) this.#end(jobs[i], "abort");
    }
    this.#running.drop();
  }

  /** A snapshot; it looks at every page that a running request holds. */
  usage(): Usage {
    return usageOf(this.#counts, this.#waiting.length, this.#running.jobs, this.#pages);
  }

  /** Aborts all requests and frees all cached pages. */
  [Symbol.dispose](): void {
    this.#underWay = false;
    for (const id of [...this.#jobs.keys()]) this.abort(id);
    this.index.clear();
  }

  /** Starts waiting jobs while tokens are left, the batch has room and their pages are there. */
  #start(tokens: number, now: number): void {
    const running = this.#running;
    const { maxBatch } = this.#options;
    if (tokens === 0 || this.#full || running.count === maxBatch) return;
    if (this.#waiting.length > 0) this.#room.promiseAll(running.jobs);
    let left = tokens;
    while (left > 0 && running.count < maxBatch && this.#waiting.length > 0) {
      const job = this.#waiting.first!;
      const match = this.#room.match(job);
      if (this.#room.isBeingComputed(job, match.tokens, running.jobs)) return;
      if (!this.#room.start(job, match, running.count === 0)) {
        this.#full = true;
        return;
      }
      this.#waiting.remove(job);
      this.#room.promise(job);
      running.add(job);
      job.scheduled = Math.min(left, job.length - job.computed);
      left -= job.scheduled;
      if (!job.start(now)) continue;
      this.#counts.promptTokens += job.promptLength;
      this.#counts.cachedTokens += job.computed;
    }
  }

  #reserve({ sequences, newTokens, tokens }: Step): Batch | OutOfPages {
    const batch = this.#options.reserve?.(sequences, newTokens, tokens);
    return batch ?? this.#pool.reserve(sequences, newTokens);
  }

  /** Notes a job's tokens of a step and the one that came out; returns why it ends, if it does. */
  #settle(job: Job, token: number | undefined): Ending | null {
    const computed = job.settle();
    if (job.aborted) return "abort";
    if (job.computed <= job.promptLength || computed > 1) this.#keep(job);
    if (token === undefined) return null;
    this.#counts.generatedTokens++;
    return job.push(token);
  }

  /** Takes a job's pages; what it computed stays cached until it is evicted. */
  #preempt(job: Job): void {
    this.#keep(job);
    job.unschedule();
    job.sequence!.free();
    job.sequence = null;
    job.computed = 0;
    job.preemptions++;
    this.#counts.preemptions++;
    this.#running.drop();
    this.#waiting.add(job);
  }

  /** Lets later prompts share what the job has computed. */
  #keep(job: Job): void {
    this.index.insert(job.tokens, job.sequence!, job.computed, job.adapter);
  }

  /** Ends a job that waits or runs, between two steps. */
  #leave(job: Job, ending: Ending): void {
    if (job.sequence === null) this.#waiting.remove(job);
    this.#end(job, ending);
    this.#running.drop();
  }

  #end(job: Job, ending: Ending): void {
    job.sequence?.free();
    job.sequence = null;
    job.ending = ending;
    this.#jobs.delete(job.id);
    this.#counts.ended[ending]++;
    this.#full = false;
  }

  #requireUnderWay(step: Step): void {
    if (this.#underWay && step === this.#step) return;
    throw new OptionError("step", step, "the one under way", "pass what step returned, once.");
  }
}
