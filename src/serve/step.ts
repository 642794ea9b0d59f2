import { OptionError, PlanError } from "../errors.ts";
import type { Batch } from "../kv/batch.ts";
import type { Sequence } from "../kv/sequence.ts";
import type { Job } from "./job.ts";

/** What to run next, its pages reserved; a scheduler writes the same object each time. */
export class Step {
  batch: Batch = undefined as unknown as Batch;
  /** In the batch's order, [batch.requestCount]. */
  readonly jobs: Job[] = [];
  readonly sequences: Sequence[] = [];
  /** New tokens of each job: those at `computed` and after of its `tokens`. */
  newTokens: Int32Array = new Int32Array(0);
  /** Jobs all of whose known tokens are computed then: each gets its next token from this step. */
  readonly sampled: Job[] = [];
  /** Of each sampled job, the query token of the batch whose logits it wants; may be longer. */
  readonly logitRows: Int32Array;
  /** Tokens of jobs that generate, one each. */
  decodeTokens = 0;
  /** Tokens of prompts, and of jobs that compute theirs again. */
  prefillTokens = 0;
  readonly #counts: Int32Array;
  /** By count, the first so many of #counts: made once for each. */
  readonly #views: Int32Array[] = [];

  /** @param maxBatch most jobs at once */
  constructor(maxBatch: number) {
    this.logitRows = new Int32Array(maxBatch);
    this.#counts = new Int32Array(maxBatch);
  }

  /** Lists those of the jobs that have tokens scheduled. */
  list(running: readonly Job[]): void {
    const { jobs, sequences, sampled, logitRows } = this;
    const counts = this.#counts;
    let count = 0;
    let rows = 0;
    let tokens = 0;
    let decodes = 0;
    for (let i = 0; i < running.length; i++) {
      const job = running[i];
      const { scheduled, length } = job;
      if (scheduled === 0) continue;
      jobs[count] = job;
      sequences[count] = job.sequence!;
      counts[count++] = scheduled;
      tokens += scheduled;
      if (scheduled === 1 && length > job.promptLength) decodes++;
      if (job.computed + scheduled < length) continue;
      sampled[rows] = job;
      logitRows[rows++] = tokens - 1;
    }
    jobs.length = sequences.length = count;
    sampled.length = rows;
    this.newTokens = this.#views[count] ??= counts.subarray(0, count);
    this.decodeTokens = decodes;
    this.prefillTokens = tokens - decodes;
  }
}

/** Throws an OptionError unless there is a token for each sampled job that goes on. */
export function requireTokens({ sampled }: Step, tokens: ArrayLike<number>): void {
  if (tokens.length < sampled.length)
    throw new OptionError(
      "tokens.length",
      tokens.length,
      `${sampled.length} or more`,
      "give a token for each of step.sampled.",
    );
  for (let i = 0; i < sampled.length; i++) {
    const token = tokens[i];
    if (((token | 0) === token && token >= 0) || sampled[i].aborted) continue;
    const fix = `give the token of request ${sampled[i].id}, or abort it.`;
    throw new OptionError(`tokens[${i}]`, token, "a token id of 0 or more", fix);
  }
}

/** The error for a step that is asked for before the one before has ended. */
export function notAdvanced(): OptionError {
  const fix = "pass its tokens to advance first.";
  return new OptionError("step", "a step under way", "called after advance", fix);
}

/** The error for a step that cannot be given back any more. */
export function replaced(): PlanError {
  return new PlanError(
    "the pool has reserved another step since this one, which is no longer known; nothing was " +
      "changed. Fix: roll a step back before others reserve; else first truncate each of " +
      "step.sequences to its job's computed tokens.",
  );
}
