import { expect, test } from "bun:test";
import { questions } from "../../src/cli/model/demo.ts";
import { Engine, FetchError, fetchSmolLm2 } from "../../src/engine/index.ts";
import transformers from "./smollm2-golden.json";

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

test("SmolLM2 says what transformers makes of the same file in f32, token by token", async () => {
  const { answers } = transformers;
  expect(answers.length).toBe(20);
  // Nearer than this sums in another order may differ.
  expect(Math.min(...answers.map(({ margin }) => margin))).toBeGreaterThan(5e-3);
  await using engine = await Engine.load(await fetchSmolLm2(), { pages: 256, exact: true });
  await Promise.all(
    answers.map(async ({ prompt, ids, tokens, top }) => {
      const messages = [{ role: "user", content: prompt }];
      const asked = { messages, maxTokens: tokens.length, sampling: { ...sampling, logprobs: 5 } };
      const generation = engine.generate(asked);
      const pieces = await Array.fromAsync(generation);
      expect([...generation.prompt]).toEqual(ids);
      expect(pieces.map(({ token }) => token)).toEqual(tokens);
      // Differences of log-probabilities are those of logits.
      const first = pieces[0].logProb!.top;
      expect(first.map(({ token }) => token)).toEqual(top.tokens);
      first.forEach(({ logProb }, i) => {
        const expected = top.logits[i] - top.logits[0];
        expect(Math.abs(logProb - first[0].logProb - expected)).toBeLessThan(2e-3);
      });
    }),
  );
}, 120_000);

test("rounded activations choose the same tokens, by logits within 1e-3 of theirs", async () => {
  const { answers } = transformers;
  await using engine = await Engine.load(await fetchSmolLm2(), { pages: 256 });
  await Promise.all(
    answers.map(async ({ prompt, tokens, top }) => {
      const messages = [{ role: "user", content: prompt }];
      const asked = { messages, maxTokens: tokens.length, sampling: { ...sampling, logprobs: 9 } };
      const pieces = await Array.fromAsync(engine.generate(asked));
      expect(pieces.map(({ token }) => token)).toEqual(tokens);
      const found = new Map(pieces[0].logProb!.top.map(({ token, logProb }) => [token, logProb]));
      const first = found.get(top.tokens[0])!;
      top.tokens.forEach((token, i) => {
        const apart = found.get(token)! - first - (top.logits[i] - top.logits[0]);
        expect(Math.abs(apart)).toBeLessThan(1e-3 * top.logits[i]);
      });
    }),
  );
}, 120_000);

test("a folder that cannot keep it is refused before anything is fetched", async () => {
  const failure = fetchSmolLm2(() => {}, "/dev/null/models").catch((error: unknown) => error);
  const error = (await failure) as FetchError;
  expect(error).toBeInstanceOf(FetchError);
  expect(error.message).toBe(
    "/dev/null/models cannot keep models (ENOTDIR). " +
      "Fix: make it writable, or name another folder by FLASHBUN_MODELS.",
  );
});
