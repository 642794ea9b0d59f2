import type { Sequence } from "../kv/sequence.ts";
import type { ServeRequest } from "./request.ts";

/** Why a job ended: its most tokens were out, or one that ends it was, or it was aborted. */
export type Ending = "length" | "end" | "abort";

/** Generated tokens that a job has room for at first; the room doubles. */
const roomAtFirst = 32;

/** A request on its way through a scheduler, which alone writes it. */
export class Job {
  readonly id: number;
  readonly promptLength: number;
  readonly maxTokens: number;
  /** Prompt, then generated tokens; [0, length) are known. A new array when it has to grow. */
  tokens: Int32Array;
  length: number;
  /** Tokens whose K/V its sequence holds, those of the step under way not counted. */
  computed = 0;
  /** Tokens in the step under way. */
  scheduled = 0;
  /** Its pages while it runs. */
  sequence: Sequence | null = null;
  /** Null until it has ended. */
  ending: Ending | null = null;
  /** True once aborted in a step under way, with which it ends. */
  aborted = false;
  /** When it first got pages, by the scheduler's clock; NaN before. */
  startSeconds = NaN;
  /** Prompt tokens found in cached pages when it first started. */
  cachedTokens = 0;
  /** Times that it lost its pages to others. */
  preemptions = 0;
  readonly #endTokens: readonly number[];

  /**
   * @param order counts a scheduler's requests as they were added, from 0
   * @param arrivalSeconds when it came, by the scheduler's clock
   * @param rank its place among all requests, first by this and then by `order`
   */
  constructor(
    request: ServeRequest,
    maxTokens: number,
    readonly order: number,
    readonly arrivalSeconds: number,
    readonly rank: number,
  ) {
    const { id, prompt, endTokens = [] } = request;
    this.id = id;
    this.promptLength = this.length = prompt.length;
    this.maxTokens = maxTokens;
    this.tokens = new Int32Array(prompt.length + Math.min(maxTokens, roomAtFirst));
    this.tokens.set(prompt);
    this.#endTokens = endTokens;
  }

  /** Tokens generated so far. */
  get generated(): number {
    return this.length - this.promptLength;
  }

  /** Whether its turn is before the other's. */
  isBefore(other: Job): boolean {
    return this.rank === other.rank ? this.order < other.order : this.rank < other.rank;
  }

  /** Adds a generated token and returns why the job ends with it, or null when it goes on. */
  push(token: number): Ending | null {
    if (this.length === this.tokens.length) this.#grow();
    this.tokens[this.length++] = token;
    if (this.#endTokens.includes(token)) return "end";
    return this.generated === this.maxTokens ? "length" : null;
  }

  #grow(): void {
    const room = Math.min(this.maxTokens, 2 * this.generated);
    const tokens = new Int32Array(this.promptLength + room);
    tokens.set(this.tokens);
    this.tokens = tokens;
  }
}
