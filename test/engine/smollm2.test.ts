import { expect, test } from "bun:test";
import { Engine, fetchSmolLm2 } from "../../src/engine/index.ts";

/**
 * Greedy tokens of f32 arithmetic on the same weights, in numpy; the two best logits are never
 * closer than 0.02 on the way.
 */
const golden: readonly [question: string, tokens: string][] = [
  ["What is the capital of France?", "504 3575 282 4649 314 7042 30 2"],
  [
    "Write two sentences about the sea.",
    "504 3426 314 253 4749 284 11965 7815 28 30055 351 1029 284 2073 282 13278 30 657 506 253 " +
      "1379 837 260 6177 282 260 1205 905 359 12227 288 260 6583 28 284 260 1205 1786 314 17942 " +
      "618 624 7564 14886 30 2",
  ],
];

const sampling = { temperature: 0 };

test("SmolLM2 answers as it should, several at once", async () => {
  await using engine = await Engine.load(await fetchSmolLm2(), { pages: 64 });
  const answers = await Promise.all(
    golden.map(async ([content]) => {
      const tokens: number[] = [];
      const messages = [{ role: "user", content }];
      for await (const { token } of engine.generate({ messages, maxTokens: 64, sampling }))
        tokens.push(token);
      return tokens.join(" ");
    }),
  );
  expect(answers).toEqual(golden.map(([, tokens]) => tokens));
  expect(engine.stats().requests).toBe(0);
});
