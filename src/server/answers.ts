import type { Engine } from "../engine/engine.ts";
import type { Latencies } from "./latencies.ts";
import type { ToolCallPiece } from "../text/tool-calls.ts";
import type { GeneratedToken, GenerateOptions, Generation } from "../engine/request.ts";

/** A piece of one of a request's answers. */
export interface AnswerPiece {
  readonly index: number;
  readonly text: string;
  /** More of its calls of tools. */
  readonly calls: readonly ToolCallPiece[];
  /** Those that came since the piece before. */
  readonly tokens: readonly GeneratedToken[];
  /** Null while the answer goes on. */
  readonly finishReason: FinishReason | null;
}

/** Why an answer ended, as OpenAI says it. */
export type FinishReason = "stop" | "length" | "tool_calls";

/** One of a request's answers. */
export interface WholeAnswer {
  text: string;
  calls: { name: string; arguments: string }[];
  tokens: GeneratedToken[];
  finishReason: FinishReason;
}

/** OpenAI's count of a request's tokens. */
export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: { cached_tokens: number };
}

/**
 * The answers to one request: to each of its prompts as many generations, which run beside each
 * other. Those to one prompt follow one another.
 */
export class Answers {
  readonly #generations: readonly Generation[];

  /**
   * Starts `count` to each prompt; a seed goes up by one from answer to answer to a prompt. Errors:
   * as Engine.generate.
   */
  constructor(
    engine: Engine,
    prompts: readonly GenerateOptions[],
    private readonly count: number,
    private readonly latencies: Latencies,
  ) {
    const generations: Generation[] = [];
    try {
      for (const options of prompts)
        for (let i = 0; i < count; i++) {
          const { sampling } = options;
          const seed = sampling?.seed;
          const own = seed === undefined ? sampling : { ...sampling, seed: seed + i };
          generations.push(engine.generate({ ...options, ...(own && { sampling: own }) }));
        }
    } catch (error) {
      for (const generation of generations) generation.abort();
      throw error;
    }
    this.#generations = generations;
  }

  /** Their pieces as they come; leaving early aborts those that run. */
  async *pieces(): AsyncGenerator<AnswerPiece, void> {
    const told = this.#generations.map(() => this.latencies.answer());
    const readers = this.#generations.map((generation) => generation[Symbol.asyncIterator]());
    const next = async (index: number) => ({ index, result: await readers[index].next() });
    // Tokens within a character wait for its last one.
    const held: GeneratedToken[][] = readers.map(() => []);
    const called = new Set<number>();
    const pending = new Map<number, ReturnType<typeof next>>();
    const ask = (index: number) => {
      const asked = next(index);
      // A reader that stalls may leave before it hears of a failure.
      asked.catch(() => {});
      pending.set(index, asked);
    };
    readers.forEach((_, index) => ask(index));
    try {
      while (pending.size > 0) {
        const { index, result } = await Promise.race(pending.values());
        const { finishReason } = this.#generations[index];
        if (!result.done) {
          ask(index);
          told[index]();
          const { text, calls = [] } = result.value;
          held[index].push(result.value);
          if (calls.length > 0) called.add(index);
          if (text !== "" || calls.length > 0)
            yield { index, text, calls, tokens: held[index].splice(0), finishReason: null };
          continue;
        }
        pending.delete(index);
        const ended = called.has(index) ? "tool_calls" : "stop";
        const reason = finishReason === "length" ? "length" : ended;
        yield { index, text: "", calls: [], tokens: held[index].splice(0), finishReason: reason };
      }
    } finally {
      for (const generation of this.#generations) generation.abort();
    }
  }

  /** Each answer whole, in order. */
  async whole(): Promise<WholeAnswer[]> {
    const whole: WholeAnswer[] = this.#generations.map(() => ({
      text: "",
      calls: [],
      tokens: [],
      finishReason: "stop",
    }));
    for await (const { index, text, calls, tokens, finishReason } of this.pieces()) {
      whole[index].text += text;
      for (const call of calls) {
        const held = (whole[index].calls[call.index] ??= { name: call.name!, arguments: "" });
        held.arguments += call.arguments;
      }
      whole[index].tokens.push(...tokens);
      if (finishReason !== null) whole[index].finishReason = finishReason;
    }
    return whole;
  }

  /** What they took together; a prompt counts once. */
  get usage(): Usage {
    const all = this.#generations.map(({ usage }) => usage);
    const firsts = all.filter((_, i) => i % this.count === 0);
    const prompt_tokens = sumOf(firsts.map(({ promptTokens }) => promptTokens));
    const completion_tokens = sumOf(all.map(({ generatedTokens }) => generatedTokens));
    const cached_tokens = sumOf(firsts.map(({ cachedTokens }) => cachedTokens));
    return {
      prompt_tokens,
      completion_tokens,
      total_tokens: prompt_tokens + completion_tokens,
      prompt_tokens_details: { cached_tokens },
    };
  }
}

function sumOf(counts: readonly number[]): number {
  return counts.reduce((sum, count) => sum + count, 0);
}
