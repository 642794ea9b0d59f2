/**
 * SmolLM2 on the CPU with drafts by prompt lookup and without, one request at a time, greedily: a
 * text that repeats itself, and one that does not.
 *
 * Usage: bun bench/serving/drafts.ts
 */
import { table } from "../../src/cli/table.ts";
import { Engine, fetchSmolLm2 } from "../../src/engine/index.ts";

const log = (i: number) => `GET /pages/${i % 3}/view 200 OK, 12 ms, cached: yes, user: guest\n`;
const prompts = {
  "a log that goes on": Array.from({ length: 12 }, (_, i) => log(i)).join(""),
  "a story": "Once upon a time, in a small village by the sea,",
};
const runs = 2;
const maxTokens = 64;
const path = await fetchSmolLm2();
await using plain = await Engine.load(path, { pages: 64 });
const speculate = { method: "prompt-lookup" } as const;
await using drafting = await Engine.load(path, { pages: 64, speculate });

/** Its tokens per second behind the first, and what it said. */
async function rateOf(engine: Engine, prompt: string): Promise<{ rate: number; said: string }> {
  const sampling = { temperature: 0 };
  const tokens: number[] = [];
  let first = 0;
  for await (const { token } of engine.generate({ prompt, maxTokens, ignoreEnd: true, sampling })) {
    if (tokens.length === 0) first = performance.now();
    tokens.push(token);
  }
  const seconds = (performance.now() - first) / 1e3;
  return { rate: (tokens.length - 1) / seconds, said: tokens.join() };
}

const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1];
const rows = [["prompt", "without", "with", "ratio", "accepted per step", "same tokens"]];
for (const [name, prompt] of Object.entries(prompts)) {
  const [without, using]: number[][] = [[], []];
  let same = true;
  const before = drafting.stats();
  // The first run warms both up.
  for (let run = 0; run <= runs; run++) {
    const [a, b] = [await rateOf(plain, prompt), await rateOf(drafting, prompt)];
    same &&= a.said === b.said;
    if (run === 0) continue;
    without.push(a.rate);
    using.push(b.rate);
  }
  const { drafts, acceptedTokens } = drafting.stats();
  const accepted = (acceptedTokens - before.acceptedTokens) / Math.max(1, drafts - before.drafts);
  const [slow, fast] = [median(without), median(using)];
  const figures = [slow.toFixed(1), fast.toFixed(1), (fast / slow).toFixed(2), accepted.toFixed(2)];
  rows.push([name, ...figures, same ? "yes" : "no"]);
}
process.stdout.write(table(rows));
