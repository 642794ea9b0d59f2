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
  #tokens: Int32Array = new Int32Array(64);
  /** Of all tokens as they came out, whose each is: its place in `visits`. */
  #owners: Int32Array = new Int32Array(1024);
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
    const count = sampled.length;
    const first = this.#tokenCount;
    const tokens = (this.#tokens = roomIn(this.#tokens, count));
    const owners = (this.#owners = roomIn(this.#owners, first + count));
    for (let i = 0; i < count; i++) {
      const { id, order, length, promptLength } = sampled[i];
      owners[first + i] = order;
      tokens[i] = outputToken(this.#seed, id, length - promptLength);
    }
    this.#tokenCount += count;
    this.#scheduler.advance(step, tokens);
    return count;
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
}

/** The array, or its contents in one twice as large as `count` if that does not fit. */
function roomIn(array: Int32Array, count: number): Int32Array {
  if (count <= array.length) return array;
  const larger = new Int32Array(2 * count);
  larger.set(array);
  return larger;
}

function servedAs({ id, promptTokens, outputTokens }: ReplayRequest) {
  return { id, prompt: promptTokens, maxTokens: outputTokens };
}
