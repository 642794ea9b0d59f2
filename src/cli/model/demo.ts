import type { Engine } from "../../engine/index.ts";
import { percentilesOf } from "../../replay/metrics.ts";
import { share, table } from "../table.ts";
import { type EngineArguments, onSignals, openEngine } from "./engine.ts";

/** Options of `flashbun demo`. */
export interface DemoArguments extends EngineArguments {
  maxTokens: number;
}

/**
 * Questions, the first two with the tokens that f32 arithmetic on the same weights gives greedily;
 * the best two logits are at least 0.02 apart on the way.
 */
export const questions: readonly [question: string, golden?: string][] = [
  [
    "Write two sentences about the sea.",
    "504 3426 314 253 4749 284 11965 7815 28 30055 351 1029 284 2073 282 13278 30 657 506 253 " +
      "1379 837 260 6177 282 260 1205 905 359 12227 288 260 6583 28 284 260 1205 1786 314 17942 " +
      "618 624 7564 14886 30",
  ],
  ["What is the capital of France?", "504 3575 282 4649 314 7042 30"],
  ["Name three primary colours."],
  ["Why is the sky blue?"],
  ["Give me a recipe for pancakes."],
  ["What does a page table do?"],
  ["How far is the Moon?"],
  ["Write a haiku about rain."],
  ["Translate 'good morning' into Spanish."],
  ["What is 12 times 12?"],
  ["Who wrote Hamlet?"],
  ["Explain a hash map to a child."],
];

interface Asked {
  readonly tokens: number[];
  /** Milliseconds from the start at which each token came. */
  readonly times: number[];
}

/** Asks a dozen questions at once, shows the first answer, and prints what it took. */
export async function demoCommand(options: DemoArguments): Promise<number> {
  await using engine = await openEngine("smollm2", options);
  const abort = new AbortController();
  using signals = onSignals(() => abort.abort());
  const asked = questions.length;
  process.stderr.write(`flashbun: ${asked} questions at once; the answer to the first:\n\n`);
  const started = performance.now();
  const peak = { pages: 0 };
  const answers = await Promise.all(
    questions.map(([question], i) =>
      ask(engine, question, options.maxTokens, started, abort.signal, (text) => {
        peak.pages = Math.max(peak.pages, engine.stats().pagesUsed);
        if (i === 0) process.stdout.write(text);
      }),
    ),
  );
  if (abort.signal.aborted) {
    process.stdout.write("\n");
    return signals.exitCode;
  }
  const seconds = (performance.now() - started) / 1000;
  process.stdout.write(`\n\n${report(engine, answers, seconds, peak.pages)}`);
  return verified(answers) ? 0 : 1;
}

async function ask(
  engine: Engine,
  question: string,
  maxTokens: number,
  started: number,
  signal: AbortSignal,
  show: (text: string) => void,
): Promise<Asked> {
  const messages = [{ role: "user", content: question }];
  const generation = engine.generate({ messages, maxTokens, sampling: { temperature: 0 } });
  signal.addEventListener("abort", () => generation.abort());
  const asked: Asked = { tokens: [], times: [] };
  for await (const { token, text } of generation) {
    asked.tokens.push(token);
    asked.times.push(performance.now() - started);
    show(text);
  }
  return asked;
}

function report(engine: Engine, answers: readonly Asked[], seconds: number, pages: number): string {
  const { promptTokens, cachedTokens, generatedTokens, steps, pages: total } = engine.stats();
  const first = percentilesOf(answers.map(({ times }) => times[0]).sort((a, b) => a - b));
  const between = answers
    .flatMap(({ times }) => times.slice(1).map((time, i) => time - times[i]))
    .sort((a, b) => a - b);
  const { p50, p99 } = percentilesOf(between);
  const ms = (value: number | null) => `${value?.toFixed(1)} ms`;
  return table(
    [
      ["questions", String(answers.length)],
      ["time to first token", `${ms(first.p50)} p50, ${ms(first.p99)} p99`],
      ["between tokens", `${ms(p50)} p50, ${ms(p99)} p99`],
      ["tokens per second", (generatedTokens / seconds).toFixed(1)],
      ["prompt tokens", `${promptTokens}, ${share(cachedTokens, promptTokens)} found cached`],
      ["pages used at most", `${pages} of ${total}`],
      ["steps", String(steps)],
      ["as in f32 arithmetic", verified(answers) ? "yes, the known answers" : "NO"],
    ],
    [0, 1],
  );
}

/** Whether the answers that are known came out, as far as they were let go. */
function verified(answers: readonly Asked[]): boolean {
  return questions.every(([, golden], i) => {
    if (golden === undefined) return true;
    const { tokens } = answers[i];
    const known = golden.split(" ").map(Number);
    const count = Math.min(known.length, tokens.length);
    return count > 0 && known.slice(0, count).join() === tokens.slice(0, count).join();
  });
}
