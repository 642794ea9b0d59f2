import { OptionError } from "../errors.ts";
import { requireInteger } from "../require.ts";
import type { Job } from "../serve/job.ts";
import type { Scheduler } from "../serve/scheduler.ts";
import type { Step } from "../serve/step.ts";
import { outputToken } from "./rows.ts";
import type { ReplayRequest } from "./types.ts";

/** A request of a trace at a scheduler. */
export interface Visit {
  readonly request: ReplayRequest;
  /** After scaling by the speed. */
  readonly arrivalSeconds: number;
  /** Null until it has arrived. */
  job: Job | null;
}

/** How a trace is played. */
export interface TrafficOptions {
  /** Arrivals are this many times as fast; Infinity: all at once. */
  speed: number;
  seed: number;
}

/** The requests of a trace at a scheduler: each comes at its time and gets invented tokens. */
export class Traffic {
  /** In order of arrival. */
  readonly visits: readonly Visit[];
  readonly #scheduler: Scheduler;
  readonly #seed: number;
  #arrived = 0;
  /** Of the step that advances. */
  readonly #tokens: number[] = [];
  /** Of all tokens as they came out, whose each is: its place in `visits`. */
  #owners = new Int32Array(1024);
  #tokenCount = 0;
  /** By stamp: when it was, and the tokens that had come out by then. */
  readonly #stampSeconds: number[] = [];
  readonly #stampCounts: number[] = [];

  /**
   * Nobody else adds to `scheduler`. Errors: OptionError, also for a request that all pages
   * together cannot hold.
   */
  constructor(
    scheduler: Scheduler,
    requests: readonly ReplayRequest[],
    { speed, seed }: TrafficOptions,
  ) {
    if (!(speed > 0))
      throw new OptionError("speed", speed, "above 0", "use Infinity for back to back.");
    this.#scheduler = scheduler;
    this.#seed = seed;
    for (const request of requests) {
      const { id, promptTokens, outputTokens } = request;
      requireInteger(`requests[${id}].promptTokens.length`, promptTokens.length, 1);
      requireInteger(`requests[${id}].outputTokens`, outputTokens, 1);
      scheduler.check(servedAs(request));
    }
    const visits = requests.map((request) => ({
      request,
      arrivalSeconds: speed === Infinity ? 0 : request.arrivalSeconds / speed,
      job: null,
    }));
    this.visits = visits.sort((a, b) => a.arrivalSeconds - b.arrivalSeconds);
  }

  /** Requests that have all their tokens. */
  get finishedCount(): number {
    return this.#arrived - this.#scheduler.count;
  }

  get done(): boolean {
    return this.finishedCount === this.visits.length;
  }

  /** When the next request arrives, Infinity after the last. */
  get nextArrival(): number {
    return this.visits[this.#arrived]?.arrivalSeconds ?? Infinity;
  }

  /** Hands over the requests that have arrived by now. */
  arrive(now: number): void {
    while (this.nextArrival <= now) {
      const visit = this.visits[this.#arrived++];
      visit.job = this.#scheduler.add(servedAs(visit.request), visit.arrivalSeconds);
    }
  }

  /** Advances the scheduler with invented tokens; returns how many came out. */
  advance(step: Step): number {
    const { sampled } = step;
    const tokens = this.#tokens;
    const first = this.#tokenCount;
    if (first + sampled.length > this.#owners.length) this.#grow(sampled.length);
    for (let i = 0; i < sampled.length; i++) {
      const job = sampled[i];
      this.#owners[first + i] = job.order;
      tokens[i] = outputToken(this.#seed, job.id, job.generated);
    }
    this.#tokenCount += sampled.length;
    this.#scheduler.advance(step, tokens);
    return sampled.length;
  }

  /** Notes that the tokens of the last `advance` are out now. */
  stamp(now: number): void {
    this.#stampSeconds.push(now);
    this.#stampCounts.push(this.#tokenCount);
  }

  /** When each token came out, by visit; those that were not stamped are left out. */
  tokenSeconds(): Float64Array[] {
    const seconds = this.visits.map(({ job }) => new Float64Array(job?.generated ?? 0));
    const next = new Int32Array(seconds.length);
    let token = 0;
    for (let i = 0; i < this.#stampCounts.length; i++)
      for (; token < this.#stampCounts[i]; token++) {
        const owner = this.#owners[token];
        seconds[owner][next[owner]++] = this.#stampSeconds[i];
      }
    return seconds.map((times, owner) => times.subarray(0, next[owner]));
  }

  #grow(more: number): void {
    const owners = new Int32Array(2 * (this.#owners.length + more));
    owners.set(this.#owners);
    this.#owners = owners;
  }
}

function servedAs({ id, promptTokens, outputTokens }: ReplayRequest) {
  return { id, prompt: promptTokens, maxTokens: outputTokens };
}
