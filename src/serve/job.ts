import { OptionError } from "../errors.ts";
import type { Sequence } from "../kv/sequence.ts";
import { requireInteger } from "../require.ts";
import type { ServeRequest } from "./request.ts";

/** Why a job ended: its most tokens were out, or one that ends it was, or it was aborted. */
export type Ending = "length" | "end" | "abort";

/** Generated tokens that a job has room for at first, more than most generate; it doubles. */
const roomAtFirst = 256;

/**
 * A request on its way through a scheduler, which alone writes it. What a step reads of each comes
 * first: between two steps the device has swept the caches, and each line is fetched again.
 */
export class Job {
  /** Prompt and generated tokens that are known. */
  length: number;
  /** Tokens whose K/V its sequence holds, those of the step under way not counted. */
  computed = 0;
  /** Tokens in the step under way. */
  scheduled = 0;
  /** Guesses at the tokens that come next; the first `drafted` are in the step under way. */
  drafts: ArrayLike<number> | null = null;
  /** Above 0 until it is known which of them stand. */
  drafted = 0;
  readonly promptLength: number;
  /** Sorts of those that run that it was in since it got pages, up to two. */
  sorts = 0;
  /** Its pages while it runs. */
  sequence: Sequence | null = null;
  /**
   * [0, length) are valid, but below 0 the last of them while it is open. A new array when it has
   * to grow.
   */
  tokens: Int32Array;
  /** True once aborted in a step under way, with which it ends. */
  aborted = false;
  readonly maxTokens: number;
  readonly #endTokens: readonly number[] | undefined;
  readonly #waitsForTokens: boolean;
  readonly id: number;
  /** As {@link ServeRequest.adapter}. */
  readonly adapter: number;
  /** Counts a scheduler's requests as they were added, from 0. */
  readonly order: number;
  /** Its place among all requests, first by this and then by `order`. */
  readonly rank: number;
  /** When it came, by the scheduler's clock. */
  readonly arrivalSeconds: number;
  /** When it first got pages; NaN before. */
  startSeconds = NaN;
  /** Null until it has ended. */
  ending: Ending | null = null;
  /** Prompt tokens found in cached pages when it first started. */
  cachedTokens = 0;
  /** Times that it lost its pages to others. */
  preemptions = 0;

  /** @param rankSeconds what its priority adds to its arrival */
  constructor(
    request: ServeRequest,
    maxTokens: number,
    order: number,
    arrivalSeconds: number,
    rankSeconds: number,
  ) {
    const { id, prompt, endTokens, waitsForTokens = false, adapter = 0 } = request;
    this.id = id;
    this.adapter = adapter;
    this.#waitsForTokens = waitsForTokens;
    this.promptLength = this.length = prompt.length;
    this.maxTokens = maxTokens;
    this.tokens = new Int32Array(prompt.length + Math.min(maxTokens, roomAtFirst));
    this.tokens.set(prompt);
    this.#endTokens = endTokens;
    this.order = order;
    this.arrivalSeconds = arrivalSeconds;
    this.rank = arrivalSeconds + rankSeconds;
  }

  /** Tokens generated so far. */
  get generated(): number {
    return this.length - this.promptLength;
  }

  /** Whether it sits a step out, since its last token is open. */
  get waits(): boolean {
    return (this.#waitsForTokens || this.drafted > 0) && this.tokens[this.length - 1] < 0;
  }

  /** Whether it generates, its last token is known, and more than one may follow. */
  get takesDrafts(): boolean {
    const { length, computed, sequence, tokens } = this;
    if (sequence === null || length - computed !== 1) return false;
    return tokens[length - 1] >= 0 && this.maxTokens - this.generated > 1;
  }

  /** Takes drafts for its next step, if it may; returns whether it has some. */
  propose(drafts: ArrayLike<number>): boolean {
    if (!this.takesDrafts) return false;
    this.drafts = drafts.length > 0 ? drafts : null;
    return this.drafts !== null;
  }

  /** Puts drafts into its step, at most so many; returns how many. */
  takeDrafts(most: number): number {
    if (this.drafts === null) return 0;
    // The step gives one token more than stand of them.
    const room = this.maxTokens - this.generated - 1;
    this.drafted = Math.min(this.drafts.length, most, room);
    this.scheduled += this.drafted;
    return this.drafted;
  }

  /** Takes its drafts out of a step to be; false where there are none. */
  dropDrafts(): boolean {
    const { scheduled, drafted } = this;
    // Those of a step that was run are yet to be verified.
    if (scheduled === 0) return false;
    this.scheduled -= drafted;
    this.drafted = 0;
    this.drafts = null;
    return drafted > 0;
  }

  /** Takes it out of a step that is not run. */
  unschedule(): void {
    this.dropDrafts();
    this.scheduled = 0;
  }

  /** Notes that it has pages from now on; false where it had some before. */
  start(now: number): boolean {
    if (this.startSeconds >= 0) return false;
    this.startSeconds = now;
    this.cachedTokens = this.computed;
    return true;
  }

  /** Notes that its tokens of a step are computed, drafts apart; returns how many they were. */
  settle(): number {
    const known = this.scheduled - this.drafted;
    this.computed += known;
    this.scheduled = 0;
    if (this.drafted === 0) this.drafts = null;
    return known;
  }

  /** Whether its turn is before the other's. */
  isBefore(other: Job): boolean {
    return this.rank === other.rank ? this.order < other.order : this.rank < other.rank;
  }

  /** Adds a generated token and returns why the job ends with it, or null when it goes on. */
  push(token: number): Ending | null {
    if (this.length === this.tokens.length) this.#grow();
    this.tokens[this.length++] = token;
    // One that is open ends nothing yet.
    if (token >= 0 && this.endsWith(token)) return "end";
    return this.generated === this.maxTokens ? "length" : null;
  }

  /**
   * Puts a token into its open place, before it the drafts that stand, by their numbers along a
   * path. Returns why the job ends with one of them, and then has no tokens behind it. Errors:
   * OptionError.
   */
  close(place: number, token: number, accepted: readonly number[]): Ending | null {
    requireInteger("token", token, 0, 0x7fffffff);
    if (!(place < this.length && this.tokens[place] < 0))
      throw new OptionError("place", place, "that of an open token", "tell each token once.");
    if (this.drafted > 0) return this.#verify(accepted, token);
    this.tokens[place] = token;
    if (this.ending === "abort" || !this.endsWith(token)) return null;
    this.length = place + 1;
    return "end";
  }

  /** The same where its last step had drafts: nothing was scheduled behind them. */
  #verify(accepted: readonly number[], token: number): Ending | null {
    const { drafts, sequence } = this;
    // A job that was preempted since computes all of its tokens again.
    sequence?.compact([0, ...accepted.map((draft) => draft + 1)]);
    if (sequence !== null) this.computed += accepted.length;
    this.drafted = 0;
    this.drafts = null;
    if (this.ending !== null) return null;
    this.length--;
    for (const draft of accepted) {
      const ending = this.push(drafts![draft]);
      if (ending !== null) return ending;
    }
    return this.push(token);
  }

  /** Whether a token is one that ends it. */
  endsWith(token: number): boolean {
    return this.#endTokens?.includes(token) ?? false;
  }

  #grow(): void {
    const room = Math.min(this.maxTokens, 2 * this.generated);
    const tokens = new Int32Array(this.promptLength + room);
    tokens.set(this.tokens);
    this.tokens = tokens;
  }
}
