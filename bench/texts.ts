import { fetchSmolLm2 } from "../src/engine/index.ts";
import { LoopLag } from "../src/cli/bench/lag.ts";
import { Random } from "../src/replay/random.ts";
import { Tokenizer } from "../src/text/tokenizer.ts";
import { TokenizerThread } from "../src/text/tokenizer-thread.ts";
import { openCheckpoint } from "../src/weights/open.ts";
import { type Bench, type Case, type Measured, plainRow } from "./bench.ts";

/** How long cutting a long text into tokens keeps the event loop: here, and by a thread. */
export const textCases: Case[] = [{ name: "text/lag", run: lags }];

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
  const here = await latest(texts, async (text) => void tokenizer.encode(text));
  const beside = await latest(texts, async (text) => void (await thread.encode([text], false)));
  const more = `of ${characters} characters`;
  return [
    { ...plainRow("text/lag_here", here, "ms"), more },
    {
      ...plainRow("text/lag_thread", beside, "ms"),
      more: `${more}: ${(beside / here).toFixed(3)} of it`,
      target: "under 5 ms",
      met: beside < 5,
    },
  ];
}

/** Milliseconds that a timer came late by at most. */
async function latest(texts: readonly string[], cut: (text: string) => Promise<void>) {
  using lag = new LoopLag();
  for (const text of texts) {
    await Bun.sleep(20);
    await cut(text);
    await Bun.sleep(20);
  }
  return lag.figures.max!;
}
