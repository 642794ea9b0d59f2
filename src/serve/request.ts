import { OptionError } from "../errors.ts";
import { requireInteger } from "../require.ts";

/** A request as its driver hands it over. */
export interface ServeRequest {
  /** Names it until it has ended; no other request that waits or runs has it. */
  readonly id: number;
  /** Token ids, one or more; copied. */
  readonly prompt: Int32Array;
  /** Most tokens to generate, 1 or more; absent: as many as the pages hold. */
  readonly maxTokens?: number;
  /** Token ids that end it. The one that does is generated like any other. */
  readonly endTokens?: readonly number[];
  /** Its level: 0 (default) comes first, each level above it later. */
  readonly priority?: number;
  /** True: it has no step while a token of it is open. Default false. */
  readonly waitsForTokens?: boolean;
  /**
   * Which adapter its K/V are computed with; default 0, none. Requests of different ones share no
   * pages, and those of one lie side by side in batches, rising.
   */
  readonly adapter?: number;
}

/** Levels of priority are below this. */
const priorityLevels = 256;

/** Errors: OptionError for a part of the request that is outside its range. */
export function checkRequest(request: ServeRequest): void {
  const { id, prompt, maxTokens, endTokens = [], priority = 0, adapter = 0 } = request;
  requireInteger("id", id, 0);
  requireInteger("adapter", adapter, 0);
  if (!(prompt instanceof Int32Array))
    throw new OptionError("prompt", prompt, "an Int32Array of token ids", "use Int32Array.from.");
  requireInteger("prompt.length", prompt.length, 1);
  if (maxTokens !== undefined) requireInteger("maxTokens", maxTokens, 1);
  requireInteger("priority", priority, 0, priorityLevels - 1);
  endTokens.forEach((token, i) => requireInteger(`endTokens[${i}]`, token, 0, 0x7fffffff));
}

/** Throws an OptionError unless `value` is a time or a span in seconds. */
export function requireSeconds(option: string, value: number): void {
  if (value >= 0 && value < Infinity) return;
  throw new OptionError(option, value, "0 or more, and finite", "give seconds.");
}
