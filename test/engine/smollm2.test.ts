import { expect, test } from "bun:test";
import { questions } from "../../src/cli/model/demo.ts";
import { Engine, fetchSmolLm2 } from "../../src/engine/index.ts";

/** Those of the demo whose greedy tokens are known; the model's end follows them. */
const golden = questions.flatMap(([question, tokens]) =>
  tokens === undefined ? [] : [[question, `${tokens} 2`] as const],
);

const sampling = { temperature: 0 };

test("SmolLM2 answers as it should, several at once", async () => {
  expect(golden.length).toBe(2);
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
