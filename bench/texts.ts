import { readFileSync } from "node:fs";
import { fetchSmolLm2 } from "../src/engine/index.ts";
import { LoopLag } from "../src/cli/bench/lag.ts";
import { Random } from "../src/replay/random.ts";
import { TextStream } from "../src/text/text-stream.ts";
import { Tokenizer } from "../src/text/tokenizer.ts";
import { TokenizerThread } from "../src/text/tokenizer-thread.ts";
import { openCheckpoint } from "../src/weights/open.ts";
import { type Bench, type Case, type Measured, plainRow } from "./bench.ts";

/**
 * How long cutting a long text into tokens keeps the event loop: here, and by a thread. Others on
 * the machine make an idle loop late, too: so it stands beside that, and what is this thread's own.
 */
export const textCases: Case[] = [
  { name: "text/lag", run: lags },
  { name: "text/stream", run: streamed },
];

const characters = 200_000;

/** Letters in words that no tokenizer has seen before. */
function textOf(seed: number): string {
  const random = new Random(seed);
  let text = "";
  while (text.length < characters) {
    const word = Array.from({ length: 2 + random.below(8) }, () => 97 + random.below(26));
    text += ` ${String.fromCharCode(...word)}`;
  }
  return text;
}

/** What the text of a token as it comes takes the event loop, between two steps of the device. */
async function streamed({ quick }: Bench): Promise<Measured[]> {
  const { tokenizer: stored } = openCheckpoint(await fetchSmolLm2());
  const tokenizer = new Tokenizer(stored.json, { ...stored.config });
  const ids = tokenizer.encode(textOf(1).slice(0, 20_000));
  const rounds = Array.from({ length: quick ? 3 : 15 }, () => {
    const stream = new TextStream(tokenizer);
    const began = performance.now();
    for (const id of ids) stream.push(id);
    return (1e3 * (performance.now() - began)) / ids.length;
  });
  const middle = rounds.sort((a, b) => a - b)[rounds.length >> 1];
  return [{ ...plainRow("text/stream_token", middle, "us"), more: "by SmolLM2's tokenizer" }];
}

async function lags({ quick }: Bench): Promise<Measured[]> {
  const { tokenizer: stored } = openCheckpoint(await fetchSmolLm2());
  const config = { ...stored.config };
  const tokenizer = new Tokenizer(stored.json, config);
  using thread = new TokenizerThread(tokenizer, () => {
    return { json: JSON.stringify(stored.json), config };
  });
  // Starts the thread, which is no part of what a text costs.
  await thread.encode([""], false);
  const texts = Array.from({ length: quick ? 1 : 5 }, (_, i) => textOf(i));
  const idle = await latest(texts, async () => await Bun.sleep(200));
  const beside = await latest(texts, async (text) => void (await thread.encode([text], false)));
  const here = await latest(texts, async (text) => void tokenizer.encode(text));
  const more = `of ${characters} characters`;
  return [
    { ...plainRow("text/lag_here", here.lag, "ms"), more },
    {
      ...plainRow("text/lag_thread", beside.lag, "ms"),
      more: `${more}: ${(beside.lag / here.lag).toFixed(3)} of it; idle ${idle.lag.toFixed(1)} ms`,
      target: "under 5 ms",
      met: beside.lag < 5,
    },
    {
      ...plainRow("text/lag_thread_own", beside.own, "ms"),
      more: `of this thread's time between two looks; idle ${idle.own.toFixed(1)} ms`,
      target: "under 5 ms",
      met: beside.own < 5,
    },
  ];
}

/** Milliseconds that a timer came late by at most, and that this thread itself ran between two. */
async function latest(texts: readonly string[], cut: (text: string) => Promise<void>) {
  using lag = new LoopLag();
  let [own, last] = [0, ranMs()];
  const timer = setInterval(() => {
    const now = ranMs();
    own = Math.max(own, now - last);
    last = now;
  }, 5);
  for (const text of texts) {
    await Bun.sleep(20);
    await cut(text);
    await Bun.sleep(20);
  }
  clearInterval(timer);
  return { lag: lag.figures.max!, own };
}

/** Milliseconds for which this thread has had a processor. */
function ranMs(): number {
  return Number(readFileSync("/proc/thread-self/schedstat", "utf8").split(" ")[0]) / 1e6;
}
