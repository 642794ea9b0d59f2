import type { Job } from "../serve/job.ts";
import { Scheduler } from "../serve/scheduler.ts";
import type { Step } from "../serve/step.ts";
import type { Model } from "../models/model.ts";
import type { Generation } from "./request.ts";
import type { Chosen, SampledRow, Sampler } from "./sampler.ts";

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
}

/** Runs steps while there are requests: schedules, launches, waits, and hands out the tokens. */
export class StepLoop {
  readonly scheduler: Scheduler;
  readonly #model: Model;
  readonly #sampler: Sampler;
  readonly #generations = new Map<number, Generation>();
  readonly #tokens: Int32Array;
  /** Settles when the loop rests: no request is left, or it was stopped. */
  #resting: Promise<void> = Promise.resolve();
  #runs = false;
  #stopped = false;
  /** Steps that were run. */
  steps = 0;

  constructor(model: Model, sampler: Sampler, { tokenBudget, maxBatch }: LoopOptions) {
    this.#model = model;
    this.#sampler = sampler;
    this.#tokens = new Int32Array(tokenBudget);
    this.scheduler = new Scheduler(model.cache.pool, {
      tokenBudget,
      maxBatch,
      reserve: (sequences, newTokens, tokens) => model.reserve(sequences, newTokens, tokens),
    });
  }

  /** Takes a request. Errors: OptionError for one that the pages cannot hold. */
  add({ generation, maxTokens, endTokens, priority }: LoopRequest): void {
    const { id, prompt } = generation;
    this.scheduler.add({ id, prompt, maxTokens, endTokens, priority }, now());
    this.#generations.set(id, generation);
    if (!this.#runs) this.#resting = this.#run();
  }

  /** Takes a request out; its pages come back at once, or with the step under way. */
  abort(generation: Generation, failure?: unknown): void {
    if (!this.#generations.delete(generation.id)) return;
    this.#sampler.forget(generation);
    this.scheduler.abort(generation.id);
    generation.end("abort", failure);
  }

  /** Ends all requests and waits for the step under way. */
  async stop(failure: unknown): Promise<void> {
    this.#stopped = true;
    for (const generation of [...this.#generations.values()]) this.abort(generation, failure);
    await this.#resting;
    this.scheduler[Symbol.dispose]();
  }

  async #run(): Promise<void> {
    this.#runs = true;
    try {
      while (!this.#stopped) {
        const step = this.scheduler.step(now());
        if (step === null) return;
        await this.#runStep(step);
      }
    } catch (error) {
      // Not even the step was given back: whoever waits gets the reason.
      for (const generation of [...this.#generations.values()]) this.abort(generation, error);
    } finally {
      this.#runs = false;
    }
  }

  /** A step that fails ends the requests in it, and no others. */
  async #runStep(step: Step): Promise<void> {
    let chosen: Chosen[];
    try {
      this.#launch(step);
      chosen = await this.#sampler.sample(this.#rowsOf(step));
    } catch (error) {
      this.scheduler.rollback(step);
      for (const { id } of step.jobs.slice()) {
        const generation = this.#generations.get(id);
        if (generation !== undefined) this.abort(generation, error);
      }
      return;
    }
    const sampled = step.sampled.slice();
    const tokens = chosen.map(({ token }) => token);
    this.scheduler.advance(step, tokens);
    this.steps++;
    sampled.forEach((job, row) => {
      try {
        this.#hand(job, chosen[row]);
      } catch (error) {
        // What one request makes of its token is nobody else's affair.
        this.abort(this.#generations.get(job.id)!, error);
      }
    });
  }

  #rowsOf({ sampled }: Step): SampledRow[] {
    return sampled.map(({ id, length }) => ({
      generation: this.#generations.get(id)!,
      position: length,
    }));
  }

  #launch(step: Step): void {
    const ids = this.#tokens;
    let count = 0;
    for (const { tokens, computed, scheduled } of step.jobs) {
      ids.set(tokens.subarray(computed, computed + scheduled), count);
      count += scheduled;
    }
    const { batch, logitRows, sampled } = step;
    this.#model.forward({ batch, ids, logitRows, wanted: sampled.length });
  }

  #hand(job: Job, { token, logProb, failure }: Chosen): void {
    const generation = this.#generations.get(job.id);
    if (generation === undefined) return;
    if (failure !== undefined) return this.abort(generation, failure);
    generation.cachedTokens = job.cachedTokens;
    const ending = job.ending === "end" ? "stop" : job.ending;
    if (!generation.take(token, ending, logProb)) return;
    this.#generations.delete(job.id);
    this.#sampler.forget(generation);
    // A stop string was found, of which the scheduler does not know.
    if (job.ending === null) this.scheduler.abort(job.id);
  }
}

function now(): number {
  return performance.now() / 1000;
}
