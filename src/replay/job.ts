import type { Sequence } from "../kv/sequence.ts";
import type { ReplayRequest } from "./types.ts";

/** A request on its way through the scheduler. */
export class Job {
  /** Prompt, then generated tokens; [0, length) are known. */
  readonly tokens: Int32Array;
  readonly promptLength: number;
  readonly outputLength: number;
  readonly arrivalSeconds: number;
  length: number;
  generated = 0;
  /** Its place in the order of arrival. */
  rank = 0;
  /** Its pages while it runs; the sequence's length counts the tokens whose K/V are computed. */
  sequence: Sequence | null = null;
  /** Tokens of the step being run. */
  scheduled = 0;
  /** Prompt tokens found in the index when it first started, -1 before. */
  cachedTokens = -1;
  preemptions = 0;
  /** When each token came out; [0, generated) are valid. */
  readonly tokenSeconds: Float64Array;

  constructor(
    readonly request: ReplayRequest,
    speed: number,
  ) {
    const { promptTokens, outputTokens, arrivalSeconds } = request;
    this.promptLength = this.length = promptTokens.length;
    this.outputLength = outputTokens;
    this.arrivalSeconds = speed === Infinity ? 0 : arrivalSeconds / speed;
    this.tokens = new Int32Array(this.promptLength + outputTokens);
    this.tokens.set(promptTokens);
    this.tokenSeconds = new Float64Array(outputTokens);
  }

  get finished(): boolean {
    return this.generated === this.outputLength;
  }
}
