import { OptionError } from "../errors.ts";
import type { Batch, OutOfPages } from "../kv/batch.ts";
import type { Sequence } from "../kv/sequence.ts";

/** Limits of a scheduler, and who reserves its steps. */
export interface SchedulerOptions {
  /** Most tokens per step. */
  tokenBudget: number;
  /** Most requests that run at once. */
  maxBatch: number;
  /** Seconds of arrival that one level of priority is worth. Default 10. */
  levelSeconds?: number;
  /** Reserves a step of so many tokens in all; absent: the pool does, without padding. */
  reserve?(
    sequences: readonly Sequence[],
    newTokens: Int32Array,
    tokens: number,
  ): Batch | OutOfPages;
}

/** Where `levelSeconds` is not given. */
export const levelSecondsDefault = 10;

/** The error for an id that another request has. */
export function idTaken(id: number): OptionError {
  const fix = "number requests on, or wait until that one has ended.";
  return new OptionError("id", id, "of no request that waits or runs", fix);
}
