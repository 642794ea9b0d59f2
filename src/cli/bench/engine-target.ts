import type { Engine } from "../../engine/index.ts";
import type { BenchRequest } from "./load.ts";
import type { Asked, Asking, Target } from "./target.ts";

/** An engine in this process: each answer of a request is a generation of its own. */
export class EngineTarget implements Target {
  constructor(private readonly engine: Engine) {}

  async ask(request: BenchRequest, asking: Asking): Promise<Asked> {
    const askedMs = asking.now();
    const all = Array.from({ length: asking.samples }, () => this.#answer(request, asking));
    const answers = await Promise.all(all);
    const sum = (of: (answer: (typeof answers)[0]) => number) =>
      answers.reduce((total, answer) => total + of(answer), 0);
    return {
      askedMs,
      answersMs: answers.map(({ times }) => times),
      promptTokens: sum(({ usage }) => usage.promptTokens),
      cachedTokens: sum(({ usage }) => usage.cachedTokens),
      outputTokens: sum(({ usage }) => usage.generatedTokens),
    };
  }

  async #answer({ prompt, outputTokens }: BenchRequest, { temperature, signal, now }: Asking) {
    const times: number[] = [];
    const generation = this.engine.generate({
      tokens: prompt,
      maxTokens: outputTokens,
      ignoreEnd: true,
      sampling: { temperature },
    });
    const leave = () => generation.abort();
    signal.addEventListener("abort", leave);
    for await (const _ of generation) times.push(now());
    signal.removeEventListener("abort", leave);
    return { times, usage: generation.usage };
  }
}
