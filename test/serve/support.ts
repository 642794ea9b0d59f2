import { SequencePool } from "../../src/kv/sequence.ts";
import type { Scheduler } from "../../src/serve/scheduler.ts";
import type { Step } from "../../src/serve/step.ts";
import type { Random } from "../support/random.ts";

/** A pool of one page group. */
export function poolOf(options: {
  pages: number;
  pageSize: number;
  maxBatch: number;
  windowLeft?: number;
}): SequencePool {
  const { pages, pageSize, maxBatch, windowLeft } = options;
  return new SequencePool({ pageSize, maxSequences: maxBatch, groups: [{ pages, windowLeft }] });
}

/** A prompt, half the time with the start of a shared one, and then up to `longest` tokens. */
export function promptOf(
  random: Random,
  shared: readonly Int32Array[],
  longest: number,
  vocabulary = 1000,
): Int32Array {
  const head = random.chance(0.5) ? random.pick(shared) : new Int32Array(0);
  const kept = random.integer(0, head.length);
  const tail = random.integer(kept === 0 ? 1 : 0, longest);
  const prompt = new Int32Array(kept + tail);
  prompt.set(head.subarray(0, kept));
  for (let i = kept; i < prompt.length; i++) prompt[i] = random.integer(0, vocabulary - 1);
  return prompt;
}

/** Runs one step whose tokens are all `token`. */
export function stepOf(scheduler: Scheduler, now: number, token = 0): Step | null {
  const step = scheduler.step(now);
  if (step === null) return null;
  scheduler.advance(step, new Int32Array(step.sampled.length).fill(token));
  return step;
}
