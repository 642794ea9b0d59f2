import type { Job } from "../serve/job.ts";
import type { ServeRequest } from "../serve/request.ts";
import { Scheduler } from "../serve/scheduler.ts";
import type { Step } from "../serve/step.ts";
import type { LogitParts } from "../models/logit-parts.ts";
import type { Model } from "../models/model.ts";
import { Health } from "./health.ts";
import type { EngineRanks } from "./ranks.ts";
import type { Generation } from "./request.ts";
import type { LoopCounts } from "./stats.ts";
import { mostOf } from "./sampling.ts";
import type { Choices, Chosen, SampledRow, Sampler } from "./sampler.ts";
import type { Drafter } from "./drafter.ts";
import { type DraftCounts, Speculation } from "./speculation.ts";
import type { Proposal } from "./step-drafts.ts";
import { idsOf, type Row, rowsOf, sampledRows } from "./step-rows.ts";
import { type Added, checksPlans, planBytes, type Turn } from "./turns.ts";

/** Limits of a loop. */
export interface LoopOptions {
  readonly tokenBudget: number;
  readonly maxBatch: number;
}

/** What a request is, beside the tokens that it gives. */
export interface LoopRequest {
  readonly generation: Generation;
  readonly maxTokens: number;
  readonly endTokens: readonly number[];
  readonly priority: number;
  /** The number of its adapter; 0: none. */
  readonly adapter: number;
}

/** A step that the device has, and whose tokens are not known yet. */
interface Queued {
  readonly jobs: readonly Job[];
  readonly rows: readonly Row[];
  readonly choices: Choices;
}

/** Runs steps while there are requests: schedules, launches, waits, and hands out the tokens. */
export class StepLoop {
  readonly scheduler: Scheduler;
  readonly #model: Model;
  readonly #sampler: Sampler;
  readonly #generations = new Map<number, Generation>();
  readonly #speculation: Speculation | undefined;
  readonly #tokens: Int32Array;
  /** Settles when the loop rests: no request is left, or it was stopped. */
  #resting: Promise<void> = Promise.resolve();
  #runs = false;
  #stopped = false;
  readonly counts: LoopCounts = { steps: 0, generatedTokens: 0, busySeconds: 0, hostSeconds: 0 };
  /** Who came and left since the last turn, of which the other ranks do not know. */
  #added: Added[] = [];
  #left: number[] = [];
  /** What no step can follow: with it the ranks are no longer alike. */
  #broken: unknown;
  readonly health: Health;
  #beat: Timer | undefined;

  /**
   * @param followers ranks that run the same steps
   * @param drafter who guesses the tokens that come next
   */
  constructor(
    model: Model,
    sampler: Sampler,
    { tokenBudget, maxBatch }: LoopOptions,
    private readonly followers?: EngineRanks,
    drafter?: Drafter,
  ) {
    this.#model = model;
    this.health = new Health(model.device);
    this.#sampler = sampler;
    this.#tokens = new Int32Array(tokenBudget);
    this.scheduler = new Scheduler(model.cache.pool, {
      tokenBudget,
      maxBatch,
      reserve: (sequences, newTokens, tokens) => model.reserve(sequences, newTokens, tokens),
    });
    const { vocabulary } = model.shape;
    this.#speculation =
      drafter && new Speculation(drafter, this.scheduler, vocabulary, this.health);
  }

  /** What came of drafts. */
  get drafts(): DraftCounts {
    return this.#speculation?.counts ?? noDrafts;
  }

  /** Takes a request. Errors: OptionError for one that the pages cannot hold. */
  add({ generation, maxTokens, endTokens, priority, adapter }: LoopRequest): void {
    const { id, prompt } = generation;
    const waitsForTokens = generation.grammar !== undefined;
    const request = { id, prompt, maxTokens, endTokens, priority, waitsForTokens, adapter };
    if (this.followers === undefined) this.scheduler.add(request, now());
    else this.#tellLater(request, generation.parts);
    this.#generations.set(id, generation);
    this.#wake();
  }

  /** Takes a request out; its pages come back at once, or with the step under way. */
  abort(generation: Generation, failure?: unknown): void {
    if (generation.finishReason !== null || !this.#generations.has(generation.id)) return;
    this.#leave(generation);
    generation.end("abort", failure);
  }

  /** Whether a request that has not ended is such. */
  has(is: (generation: Generation) => boolean): boolean {
    return this.#generations.values().some(is);
  }

  /** Runs turns without requests too, so that ranks that follow know that this one is there. */
  keepTurning(everyMs: number): void {
    this.#beat = setInterval(() => this.#wake(), everyMs);
  }

  #wake(): void {
    if (!this.#runs) this.#resting = this.#run();
  }

  #tellLater(request: ServeRequest, parts: LogitParts): void {
    if (this.#broken !== undefined) throw this.#broken;
    this.scheduler.check(request);
    this.#added.push({ request, parts, at: now() });
  }

  /** Takes it out of the scheduler: with the next turn where other ranks have to do it too. */
  #leave(generation: Generation): void {
    if (this.followers === undefined) this.#drop(generation);
    else this.#left.push(generation.id);
  }

  #drop(generation: Generation): void {
    this.#generations.delete(generation.id);
    this.#sampler.forget(generation);
    this.#speculation?.drafter.forget(generation);
    this.scheduler.abort(generation.id);
  }

  /** Tells the other ranks what happened since the last turn, and does it here. */
  #turn(turn: Pick<Turn, "now" | "drafts" | "waits" | "ends">): void {
    const [added, left] = [this.#added, this.#left];
    [this.#added, this.#left] = [[], []];
    this.followers?.turns.send({ ...turn, added, left });
    for (const { request, at } of added) this.scheduler.add(request, at);
    for (const id of left) {
      const generation = this.#generations.get(id);
      if (generation !== undefined) this.#drop(generation);
    }
  }

  /** Ends all requests and waits for the step under way. */
  async stop(failure: unknown): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#beat);
    const follows = this.followers !== undefined && this.followers.comm.rank > 0;
    for (const generation of [...this.#generations.values()]) this.abort(generation, failure);
    await this.#resting;
    if (this.followers !== undefined && !follows && this.#broken === undefined) {
      this.#turn({ now: now(), ends: true });
      await this.followers.comm.done();
    }
    this.scheduler[Symbol.dispose]();
  }

  /**
   * While the device runs a step, the next one is scheduled and queued behind it; but with drafts,
   * which follow tokens that are known, each step is waited for.
   */
  async #run(): Promise<void> {
    this.#runs = true;
    let running: Queued | undefined;
    try {
      while (!this.#stopped) {
        const began = now();
        const speculation = this.#speculation?.isOn ? this.#speculation : undefined;
        const { drafts, waited } = speculation ? await this.#draft(speculation) : notDrafted;
        const isAhead = this.#speculation?.isOn !== true;
        if (this.followers !== undefined) this.#turn({ now: began, drafts, waits: !isAhead });
        this.#speculation?.drafts.offer(drafts);
        const step = this.scheduler.step(began);
        if (step !== null && checksPlans && this.followers !== undefined)
          await this.followers.comm.requireEqual("the plan", planBytes(step));
        const next = step === null ? undefined : this.#queue(step);
        this.counts.hostSeconds += now() - began - waited;
        const last = isAhead ? running : next;
        if (last !== undefined) await this.#settle(last);
        else if (step === null) return;
        running = isAhead ? next : undefined;
        this.counts.busySeconds += now() - began;
      }
      await running?.choices.read().catch(() => {});
    } catch (cause) {
      const error = this.followers?.comm.reasonOf(cause) ?? cause;
      // Not even the step was given back: whoever waits gets the reason.
      this.health.look(error);
      if (this.followers !== undefined) {
        this.#broken = error;
        this.health.lose(error);
        this.followers.comm.abort();
      }
      for (const generation of [...this.#generations.values()]) this.abort(generation, error);
      // No turn follows in which they would leave it.
      if (this.followers !== undefined) this.scheduler[Symbol.dispose]();
    } finally {
      this.#runs = false;
    }
  }

  /** Drafts for the step to be, and seconds for which they were waited. */
  async #draft(speculation: Speculation): Promise<typeof notDrafted> {
    // What is done here before a device is waited for is this thread's.
    const proposed = speculation.propose(this.#generations);
    const began = now();
    const drafts = await proposed;
    return { drafts, waited: now() - began };
  }

  /** Queues a step. One that cannot be queued ends the requests in it, and no others. */
  #queue(step: Step): Queued | undefined {
    const rows = rowsOf(step);
    const depthOf = (job: Job, node: number) => this.#speculation?.drafts.depthOf(job, node) ?? 0;
    try {
      const sampled = sampledRows(rows, this.#generations, depthOf);
      const choices = this.#sampler.queue(sampled, this.#launch(step, sampled));
      this.#model.shareChosen(step.wanted);
      const queued = { jobs: step.jobs.slice(), rows, choices };
      this.scheduler.advance(step);
      this.counts.steps++;
      return queued;
    } catch (error) {
      if (this.followers !== undefined) throw error;
      this.scheduler.rollback(step);
      this.#abortAll(step.jobs.slice(), error);
      return undefined;
    }
  }

  /** Waits for a step and hands out its tokens. */
  async #settle({ jobs, rows, choices }: Queued): Promise<void> {
    let chosen: Chosen[];
    try {
      // Not for the whole stream: the next step is queued there already.
      const read = choices.read();
      chosen = await (this.followers?.comm.watch(read) ?? read);
    } catch (error) {
      if (this.followers !== undefined) throw error;
      return this.#abortAll(jobs, error);
    }
    const began = now();
    rows.forEach((row) => {
      const generation = this.#generations.get(row.job.id);
      if (generation === undefined) return; // It has left since, or ended before this token.
      try {
        this.#hand(generation, row, chosen);
      } catch (error) {
        // What one request makes of its token is nobody else's affair.
        this.abort(generation, error);
      }
    });
    this.counts.hostSeconds += now() - began;
  }

  #abortAll(jobs: readonly Job[], failure: unknown): void {
    this.health.look(failure);
    for (const { id } of jobs) {
      const generation = this.#generations.get(id);
      if (generation !== undefined) this.abort(generation, failure);
    }
  }

  #launch(step: Step, sampled: readonly SampledRow[]): boolean {
    const { batch, jobs, sequences, logitRows, wanted } = step;
    const trees = this.#speculation?.drafts.treesOf(step);
    const parts = this.followers && mostOf(sampled.map(({ generation }) => generation.parts));
    const choosing = this.followers ? undefined : this.#sampler.choosing(sampled);
    const rows = { ids: idsOf(step, this.#tokens), logitRows, wanted, parts: parts ?? "all" };
    this.#model.forward({ batch, jobs, sequences, trees, ...rows, choosing });
    return choosing !== undefined;
  }

  /** Hands out the tokens of a row: behind each node of its drafts that stands, one. */
  #hand(generation: Generation, { job, place, first, count: nodes }: Row, all: Chosen[]): void {
    const hasDrafts = nodes > 1;
    const path = hasDrafts ? this.#speculation!.pathOf(job, all.slice(first)) : onlyLast;
    const accepted = hasDrafts ? path.slice(1).map((node) => node - 1) : undefined;
    // Ranks that follow tell their schedulers too, whatever is made of the token here.
    const told = this.scheduler.tell(job, place, all[first + path.at(-1)!].token, accepted);
    if (generation.finishReason !== null) {
      if (told !== null) this.#drop(generation);
      return;
    }
    generation.cachedTokens = job.cachedTokens;
    const count = Math.min(path.length, job.length - place);
    for (let i = 0; i < count; i++) {
      const { token, logProb, failure } = all[first + path[i]];
      if (failure !== undefined) return this.abort(generation, failure);
      const ending = i < count - 1 ? null : told === "end" ? "stop" : told;
      this.counts.generatedTokens++;
      if (!generation.take(token, ending, logProb)) continue;
      // Else a stop string was found, of which the scheduler does not know.
      if (told === null) this.#leave(generation);
      else this.#drop(generation);
      return;
    }
  }
}

/** The path of a row without drafts. */
const onlyLast: readonly number[] = [0];
const notDrafted = { drafts: [] as readonly Proposal[], waited: 0 };
const noDrafts: DraftCounts = { drafts: 0, draftedTokens: 0, acceptedTokens: 0 };

function now(): number {
  return performance.now() / 1000;
}
