/** Families of models that several ranks share say what one rank, or transformers, says. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import golden from "../models/families-golden.json";
import { type Golden, goldenModels, writeModel } from "../support/families.ts";
import { askRanks, startRanks } from "../support/ranks.ts";

const seconds = 240_000;
const folder = mkdtempSync(join(tmpdir(), "flashbun-rank-families-"));
afterAll(() => rmSync(folder, { recursive: true }));
const { prompt } = golden;
const requestOf = (tokens: readonly number[], maxTokens: number) => {
  return { tokens, maxTokens, ignoreEnd: true, sampling: { temperature: 0, logprobs: 5 } };
};
const options = { pages: 64, pageSize: 4, tokenBudget: 7, maxBatch: 3 };

test.each(["gemma2", "gemma3", "mixtral", "qwen3_moe", "phi3", "qwen3", "mistral"])(
  "2 ranks of %s, as transformers has it",
  async (name) => {
    const expected = goldenModels[name].tokens;
    const requests = [
      requestOf(prompt, expected.length),
      requestOf([...prompt, expected[0]], expected.length - 1),
      requestOf(prompt.slice(0, 9), 5),
    ];
    const { answers, left } = await askRanks(2, writeModel(folder, name), requests, { options });
    expect(answers[0].tokens).toEqual([...expected]);
    expect(answers[1].tokens).toEqual(expected.slice(1));
    expect(answers[2].tokens.length).toBe(5);
    expect(left).toBe(0);
  },
  seconds,
);

/** DeepSeek's small models with heads that 2 and 4 ranks can share. */
function withFourHeads({ config, tensors }: Golden): Pick<Golden, "config" | "tensors"> {
  const wide = Object.entries(tensors).map(([name, [rows, columns]]): [string, number[]] => {
    if (/\.(q|q_b|kv_b)_proj\./.test(name)) return [name, [(rows * 4) / 3, columns]];
    if (/\.o_proj\./.test(name)) return [name, [rows, (columns * 4) / 3]];
    return [name, columns === undefined ? [rows] : [rows, columns]];
  });
  const heads = { num_attention_heads: 4, num_key_value_heads: 4 };
  return { config: { ...config, ...heads }, tensors: Object.fromEntries(wide) };
}

test.each(["deepseek2", "deepseek3"])(
  "2 and 4 ranks of %s, as one",
  async (name) => {
    const path = writeModel(folder, name, withFourHeads(goldenModels[name]));
    const requests = [requestOf(prompt, 12), requestOf(prompt.slice(3), 12)];
    const one = await askRanks(1, path, requests, { options });
    expect(new Set(one.answers[0].tokens).size).toBeGreaterThan(3);
    for (const tp of [2, 4]) {
      const { answers, left } = await askRanks(tp, path, requests, { options });
      expect(answers.map(({ tokens }) => tokens)).toEqual(one.answers.map(({ tokens }) => tokens));
      const logProbs = (all: typeof answers) =>
        all.flatMap((each) => each.logProbs.map(({ logProb }) => logProb));
      const expected = logProbs(one.answers);
      logProbs(answers).forEach((value, i) => expect(value).toBeCloseTo(expected[i], 4));
      expect(left).toBe(0);
    }
  },
  seconds,
);

test(
  "numbers of ranks that cut an expert are refused, with those that do not",
  async () => {
    const path = writeModel(folder, "deepseek2", goldenModels["deepseek2"]);
    const { code, stderr } = await startRanks(3, path, []);
    expect(stderr).toContain(
      "3 ranks do not divide 3 query heads, 1 key heads and 64 elements and 16 of an expert. " +
        "Fix: start one of 1 ranks.",
    );
    expect(code).not.toBe(0);
  },
  seconds,
);
