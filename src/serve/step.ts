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
  /**
   * The query tokens of the batch whose logits are wanted: of each sampled job its last known one
   * and its drafts. May be longer than `wanted`.
   */
  readonly logitRows: Int32Array;
  /** How many those are. */
  wanted = 0;
  /** Tokens of jobs that generate, one each, and their drafts. */
  decodeTokens = 0;
  /** Tokens of prompts, and of jobs that compute theirs again. */
  prefillTokens = 0;
  /** Both. */
  tokens = 0;
  readonly #counts: Int32Array;
  /** By count, the first so many of #counts: made once for each. */
  readonly #views: Int32Array[] = [];

  /**
   * @param maxBatch most jobs at once
   * @param tokenBudget most tokens
   */
  constructor(maxBatch: number, tokenBudget: number) {
    this.logitRows = new Int32Array(tokenBudget);
    this.#counts = new Int32Array(maxBatch);
  }

  /** Lists those of the jobs that have tokens scheduled. */
  list(running: readonly Job[]): void {
    const { jobs, sequences, sampled, logitRows } = this;
    const counts = this.#counts;
    let count = 0;
    let rows = 0;
    let wanted = 0;
    let tokens = 0;
    let decodes = 0;
    for (let i = 0; i < running.length; i++) {
      const job = running[i];
      const { scheduled, drafted, length } = job;
      if (scheduled === 0) continue;
      jobs[count] = job;
      sequences[count] = job.sequence!;
      counts[count++] = scheduled;
      tokens += scheduled;
      if (scheduled - drafted === 1 && length > job.promptLength) decodes += scheduled;
      if (job.computed + scheduled < length) continue;
      sampled[rows++] = job;
      for (let left = drafted; left >= 0; left--) logitRows[wanted++] = tokens - 1 - left;
    }
    jobs.length = sequences.length = count;
    sampled.length = rows;
    this.wanted = wanted;
    this.newTokens = this.#views[count] ??= counts.subarray(0, count);
    this.decodeTokens = decodes;
    this.prefillTokens = tokens - decodes;
    this.tokens = tokens;
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
    if (sampled[i].drafted > 0) {
      const fix = "leave tokens out, then tell them.";
      throw new OptionError("tokens", tokens, "left out where a job has drafts", fix);
    }
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
