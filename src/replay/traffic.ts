import { OptionError } from "../errors.ts";
import { requireInteger } from "../require.ts";
import type { Job } from "../serve/job.ts";
import type { Scheduler } from "../serve/scheduler.ts";
import type { Step } from "../serve/step.ts";
import { outputToken } from "./rows.ts";
import type { ReplayRequest } from "./types.ts";

/** A request of a trace, from before it arrives until after it has ended. */
export interface Visit {
  readonly request: ReplayRequest;
  /** After scaling by the speed. */
  readonly arrivalSeconds: number;
  /** Null until it has arrived. */
  job: Job | null;
  /** Tokens that came out, and when each did: [0, generated) are valid. */
  generated: number;
  readonly tokenSeconds: Float64Array;
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
  finishedCount = 0;
  readonly #scheduler: Scheduler;
  readonly #seed: number;
  #arrived = 0;
  /** Those that gained a token by the last advance. */
  readonly #gained: Visit[] = [];
  readonly #tokens: number[] = [];

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
      generated: 0,
      tokenSeconds: new Float64Array(request.outputTokens),
    }));
    this.visits = visits.sort((a, b) => a.arrivalSeconds - b.arrivalSeconds);
  }

  /** True when every request has all its tokens. */
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
    const gained = this.#gained;
    const tokens = this.#tokens;
    for (let i = 0; i < sampled.length; i++) {
      const visit = this.visits[sampled[i].order];
      const { request } = visit;
      gained[i] = visit;
      tokens[i] = outputToken(this.#seed, request.id, visit.generated++);
      if (visit.generated === request.outputTokens) this.finishedCount++;
    }
    gained.length = tokens.length = sampled.length;
    this.#scheduler.advance(step, tokens);
    return gained.length;
  }

  /** Notes when the tokens of the last `advance` came out. */
  stamp(now: number): void {
    for (let i = 0; i < this.#gained.length; i++) {
      const { tokenSeconds, generated } = this.#gained[i];
      tokenSeconds[generated - 1] = now;
    }
  }
}

function servedAs({ id, promptTokens, outputTokens }: ReplayRequest) {
  return { id, prompt: promptTokens, maxTokens: outputTokens };
}
