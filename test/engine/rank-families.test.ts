/** Families of models that several ranks share say what one rank, or transformers, says. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import golden from "../models/families-golden.json";
import { type Golden, goldenModels, writeModel } from "../support/families.ts";
import { askRanks, refusedByRanks } from "../support/ranks.ts";

const seconds = 240_000;
const folder = mkdtempSync(join(tmpdir(), "flashbun-rank-families-"));
afterAll(() => rmSync(folder, { recursive: true }));
const { prompt } = golden;
const requestOf = (tokens: readonly number[], maxTokens: number) => {
  return { tokens, maxTokens, ignoreEnd: true, sampling: { temperature: 0, logprobs: 5 } };
};
const options = { pages: 64, pageSize: 4, tokenBudget: 7, maxBatch: 3 };

test(
  "2 ranks of each family, as transformers has it",
  async () => {
    const names = ["gemma2", "gemma3", "mixtral", "qwen3_moe", "phi3", "qwen3", "mistral"];
    const jobs = names.map((name) => {
      const { tokens } = goldenModels[name];
      const requests = [
        requestOf(prompt, tokens.length),
        requestOf([...prompt, tokens[0]], tokens.length - 1),
        requestOf(prompt.slice(0, 9), 5),
      ];
      return { path: writeModel(folder, name), requests, options };
    });
    const found = await askRanks(2, jobs);
    names.forEach((name, i) => {
      const [whole, behind, short] = found[i].answers.map(({ tokens }) => tokens);
      const expected = goldenModels[name].tokens;
      expect([name, whole, behind]).toEqual([name, [...expected], expected.slice(1)]);
      expect(short.length).toBe(5);
    });
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

test(
  "2 and 4 ranks of DeepSeek, as one, with parts of the latents too",
  async () => {
    const requests = [requestOf(prompt, 12), requestOf(prompt.slice(3), 12)];
    const jobs = ["deepseek2", "deepseek3"].map((name) => {
      return {
        path: writeModel(folder, name, withFourHeads(goldenModels[name])),
        requests,
        options,
      };
    });
    const one = await askRanks(1, jobs);
    for (const tp of [2, 4]) {
      const split = jobs.map((job) => ({ ...job, options: { ...options, dcp: tp } }));
      const found = await askRanks(tp, [...jobs, ...split]);
      for (const [i, { answers }] of found.entries()) {
        const { answers: expected } = one[i % jobs.length];
        expect(new Set(expected[0].tokens).size).toBeGreaterThan(3);
        expect(answers.map(({ tokens }) => tokens)).toEqual(expected.map(({ tokens }) => tokens));
        const logProbs = (all: typeof answers) =>
          all.flatMap((each) => each.logProbs.map(({ logProb }) => logProb));
        const known = logProbs(expected);
        logProbs(answers).forEach((value, at) => expect(value).toBeCloseTo(known[at], 4));
      }
    }
  },
  seconds,
);

test(
  "numbers of ranks that cut an expert are refused, with those that do not",
  async () => {
    const path = writeModel(folder, "deepseek2", goldenModels["deepseek2"]);
    expect(await refusedByRanks(3, [{ path }])).toEqual([
      "CommError: 3 ranks do not divide 3 query heads, 1 key heads and 64 elements and 16 of an " +
        "expert. Fix: start one of 1 ranks.",
    ]);
  },
  seconds,
);
