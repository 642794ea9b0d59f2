import { Random } from "../../replay/random.ts";
import type { Trace } from "../../replay/trace.ts";
import type { Lengths } from "./lengths.ts";

/** A request of a benchmark: what is asked, and how much is to come out. */
export interface BenchRequest {
  readonly prompt: Int32Array;
  readonly outputTokens: number;
  /** When it comes, in seconds from the start; 0 in a closed loop. */
  readonly arrivalSeconds: number;
}

/** What requests are made of. */
export interface LoadOptions {
  readonly requests: number;
  readonly prompt: Lengths;
  readonly output: Lengths;
  /** Tokens that all prompts begin with, beside their own. */
  readonly sharedTokens: number;
  /** Requests per second as a Poisson process; absent: in a closed loop. */
  readonly rate: number | undefined;
  readonly seed: number;
  readonly vocabulary: number;
}

/** Made-up requests; the same options give the same ones. */
export function generatedLoad(options: LoadOptions): BenchRequest[] {
  const { prompt, output, rate, vocabulary } = options;
  const random = new Random(options.seed);
  const tokens = (length: number) => Int32Array.from({ length }, () => random.below(vocabulary));
  const shared = tokens(options.sharedTokens);
  let now = 0;
  return Array.from({ length: options.requests }, (_, i) => {
    if (rate !== undefined && i > 0) now += random.exponential(rate);
    const own = tokens(prompt.draw(random));
    return {
      prompt: Int32Array.of(...shared, ...own),
      outputTokens: output.draw(random),
      arrivalSeconds: now,
    };
  });
}

/** Requests that come first and are not measured, and the others, whose times begin with theirs. */
export function afterWarmUp(
  load: readonly BenchRequest[],
  warmUp: number,
): { warming: readonly BenchRequest[]; measured: readonly BenchRequest[] } {
  const first = load[warmUp]?.arrivalSeconds ?? 0;
  const measured = load.slice(warmUp).map((request) => {
    return { ...request, arrivalSeconds: request.arrivalSeconds - first };
  });
  return { warming: load.slice(0, warmUp), measured };
}

/** The requests of a trace, with ids that the model has, as much of each as its context holds. */
export function tracedLoad(
  trace: Trace,
  { vocabulary, contextTokens }: { vocabulary: number; contextTokens: number },
): BenchRequest[] {
  return trace.requests.map(({ promptTokens, outputTokens, arrivalSeconds }) => {
    const kept = promptTokens.slice(0, contextTokens - 1);
    return {
      prompt: kept.map((token) => token % vocabulary),
      outputTokens: Math.max(1, Math.min(outputTokens, contextTokens - kept.length)),
      arrivalSeconds,
    };
  });
}
