import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine, type EngineOptions, type GenerateOptions } from "../../src/engine/index.ts";
import { answerOf, expectNoLeaks, partlyRight } from "../support/answers.ts";
import { seeded } from "../support/random.ts";
import { gpuTarget } from "../support/targets.ts";
import { tinyConfig } from "../support/tiny-config.ts";
import { tinyModel, vocabularySize, writeFolder, writeGguf } from "../support/tiny-llama.ts";
import { llamaTargets, tinyAdapter, writeAdapter } from "../support/tiny-lora.ts";

const shape = { layers: 2, hidden: 64, intermediate: 96, queryHeads: 4, kvHeads: 2, headDim: 16 };
const folder = mkdtempSync(join(tmpdir(), "flashbun-deterministic-"));
afterAll(() => rmSync(folder, { recursive: true }));

const model = tinyModel(9, { ...shape, context: 2400, tied: false });
const path = writeFolder(join(folder, "model"), model);
const adapters = {
  one: writeAdapter(join(folder, "one"), tinyAdapter(2, model, llamaTargets, { rank: 5 })),
  two: writeAdapter(join(folder, "two"), tinyAdapter(3, model, ["q_proj", "down_proj"])),
};

/** Random weights of a family. */
function familyPath(model_type: string, fields: object = {}): string {
  const config = join(folder, `${model_type}.json`);
  const decoder = { ...tinyConfig, max_position_embeddings: 2400 };
  writeFileSync(config, JSON.stringify({ ...decoder, ...fields, model_type }));
  return config;
}

const speculate = { method: "prompt-lookup", ngramLeast: 1 } as const;

/** Prompts that begin alike or not, short and long; answers greedy and drawn. */
function requestsOf(seed: number, lengths: readonly number[], names: readonly string[]) {
  const random = seeded(seed);
  const draw = (length: number) =>
    Array.from({ length }, () => random.integer(0, Math.min(vocabularySize, 300) - 3));
  const shared = draw(40);
  return lengths.map((length, i): GenerateOptions => {
    const adapter = random.pick([undefined, ...names]);
    return {
      tokens: [...(i % 3 === 0 ? shared : []), ...draw(length)],
      maxTokens: 12,
      ignoreEnd: true,
      sampling: { temperature: i % 2, seed: i, logprobs: i % 4 },
      ...(adapter !== undefined && { adapter }),
    };
  });
}

/** Tokens and the bits of their log-probabilities. */
async function bitsOf(engine: Engine, options: GenerateOptions) {
  const { pieces } = await answerOf(engine, options);
  return pieces.map(({ token, logProb }) => [token, logProb]);
}

/** One request after the other: nothing runs beside any of them. */
async function aloneOf(path: string, options: EngineOptions, requests: readonly GenerateOptions[]) {
  const answers = [];
  await using engine = await Engine.load(path, options);
  for (const request of requests) answers.push(await bitsOf(engine, request));
  return answers;
}

async function amongOf(
  path: string,
  options: EngineOptions,
  requests: readonly GenerateOptions[],
  prepare?: (engine: Engine) => void,
) {
  await using engine = await Engine.load(path, options);
  prepare?.(engine);
  const answers = await Promise.all(requests.map((each) => bitsOf(engine, each)));
  // Once more, from cached prefixes, and in another order.
  const again = await Promise.all(requests.toReversed().map((each) => bitsOf(engine, each)));
  expect(again.toReversed()).toEqual(answers);
  expectNoLeaks(engine);
  return answers;
}

const lengths = [1, 3, 900, 17, 2090, 40, 5, 33, 130, 64, 2, 300, 11, 12, 13, 14, 15, 16, 250, 9];
const short = [1, 3, 90, 17, 40, 5, 33, 130, 64, 2, 30, 11, 12, 13, 14, 15, 16, 50, 9, 8];

test("a request has the same bits alone, among others, in chunks, preempted and drafted", async () => {
  const requests = requestsOf(1, lengths, Object.keys(adapters));
  const deterministic = { deterministic: true, adapters, cascade: true } as const;
  const alone = await aloneOf(path, deterministic, requests);
  for (const options of [
    {},
    { tokenBudget: 23, maxBatch: 23 },
    { pages: 330, pageSize: 8 },
    { speculate },
  ] satisfies EngineOptions[]) {
    const answers = await amongOf(path, { ...deterministic, ...options }, requests, (engine) => {
      if (!("speculate" in options)) return;
      const said = alone.map((pieces) => pieces.map(([token]) => token as number));
      partlyRight(seeded(3), engine.drafter!, new Map(said.entries()), 0.8);
    });
    expect(answers).toEqual(alone);
  }
});

const latent = {
  num_key_value_heads: 4,
  kv_lora_rank: 24,
  qk_rope_head_dim: 8,
  qk_nope_head_dim: 16,
  v_head_dim: 24,
  q_lora_rank: null,
};
const mixture = { num_experts: 8, num_experts_per_tok: 2, moe_intermediate_size: 32 };
const families: [string, string, EngineOptions][] = [
  ["codes of GGUF", writeGguf(join(folder, "model.gguf"), model, true), {}],
  ["qwen3_moe", familyPath("qwen3_moe", mixture), { randomWeights: true }],
  [
    "deepseek_v2",
    familyPath("deepseek_v2", {
      ...latent,
      n_routed_experts: 8,
      n_shared_experts: 1,
      moe_intermediate_size: 32,
      num_experts_per_tok: 2,
      first_k_dense_replace: 1,
    }),
    { randomWeights: true },
  ],
  [
    "gemma3_text",
    familyPath("gemma3_text", { sliding_window: 20, hidden_activation: "gelu_pytorch_tanh" }),
    { randomWeights: true },
  ],
];

test.each(families)("of %s", async (_, path, options) => {
  const requests = requestsOf(2, short, []);
  const deterministic = { ...options, deterministic: true };
  const alone = await aloneOf(path, deterministic, requests);
  for (const own of [{}, { tokenBudget: 23, maxBatch: 23 }])
    expect(await amongOf(path, { ...deterministic, ...own }, requests)).toEqual(alone);
});

const wide = { ...shape, layers: 1, hidden: 128, queryHeads: 2, kvHeads: 1, headDim: 64 };
const wideModel = tinyModel(11, { ...wide, context: 300, tied: false });
const onGpu: [string, string, EngineOptions][] = [
  ["f16 and adapters", path, { dtype: "f16", adapters: { one: adapters.one } }],
  ["bf16, of wide heads", writeFolder(join(folder, "wide"), wideModel), { dtype: "bf16" }],
];

test.skipIf(gpuTarget() === undefined).each(onGpu)(
  "on a GPU, in %s",
  async (_, path, kind) => {
    const own = { ...kind, device: "cuda:0", pages: 90, maxBatch: 8, deterministic: true } as const;
    const requests = requestsOf(4, [1, 3, 40, 17, 5, 33, 70], Object.keys(kind.adapters ?? {}));
    const alone = await aloneOf(path, own, requests);
    for (const other of [{}, { tokenBudget: 23, speculate }])
      expect(await amongOf(path, { ...own, ...other }, requests)).toEqual(alone);
  },
  600_000,
);

test("what cannot be is refused", async () => {
  const deterministic = true;
  const branches = { method: "draft", model: path, branches: [1, 2] } as const;
  await expect(Engine.load(path, { deterministic, speculate: branches })).rejects.toThrow(
    /speculate\.branches must be left out beside deterministic .got "1, 2"/,
  );
  await expect(Engine.load(path, { deterministic, tp: 2 })).rejects.toThrow(
    /tp must be left out beside deterministic/,
  );
  await expect(Engine.load(path, { deterministic: "yes" as never })).rejects.toThrow(
    /deterministic must be/,
  );
});
