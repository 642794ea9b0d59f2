import { afterAll, beforeAll, expect, test, spyOn } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { DraftModel } from "../../src/engine/draft-model.ts";
import { Engine, type EngineOptions, type GenerateOptions } from "../../src/engine/index.ts";
import { answerOf, expectNoLeaks, expectSame, partlyRight } from "../support/answers.ts";
import { breakDevice } from "../support/broken-device.ts";
import { sweep } from "../support/deep.ts";
import { type Random, seeded } from "../support/random.ts";
import { DecodeGraphs } from "../../src/models/decode-graphs.ts";
import { gpuTarget } from "../support/targets.ts";
import { tinyConfig } from "../support/tiny-config.ts";
import { naiveLogits, tinyModel, vocabularySize, writeFolder } from "../support/tiny-llama.ts";

const shape = { layers: 2, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const folder = mkdtempSync(join(tmpdir(), "flashbun-speculate-"));
const model = tinyModel(9, { ...shape, context: 96, tied: false });
const path = writeFolder(join(folder, "model"), model);
// Its context ends before that of the model.
const other = { ...shape, layers: 1, context: 56, tied: true };
const otherPath = writeFolder(join(folder, "other"), tinyModel(21, other));
const speculate = { method: "prompt-lookup", draftTokensMost: 4, ngramLeast: 1 } as const;
let plain: Engine;

beforeAll(async () => {
  plain = await Engine.load(path);
});

afterAll(async () => {
  await plain[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

/** Requests of every kind; the seed of each names it. */
function requestOf(random: Random, seed: number): GenerateOptions {
  const shared = Array.from({ length: 5 * random.integer(0, 5) }, (_, i) => (7 * i) % 200);
  const own = Array.from({ length: random.integer(1, 12) }, () =>
    random.integer(0, vocabularySize - 3),
  );
  const sampling = random.pick([
    { temperature: 0 },
    { temperature: 0, logprobs: 2 },
    { temperature: 1 },
    { temperature: 0.7, topK: 20, topP: 0.9, logprobs: 0 },
    { temperature: 1, presencePenalty: 0.5 },
    { temperature: 0, logitBias: { 65: 3 } },
  ]);
  return {
    tokens: [...shared, ...own],
    maxTokens: random.integer(1, 30),
    ignoreEnd: random.chance(0.5),
    sampling: { ...sampling, seed },
    ...(random.chance(0.2) && { stop: [random.pick(["a", "e", "01", " "])] }),
    ...(random.chance(0.2) && { stopTokens: [random.integer(0, 255)] }),
  };
}

const engines: [string, EngineOptions][] = [
  ["by default", {}],
  ["prompts in chunks", { tokenBudget: 9, maxBatch: 4 }],
  ["with few pages", { pages: 40, pageSize: 4, maxBatch: 12 }],
  ["with pages of one token", { pageSize: 1, pages: 150 }],
];

interface Sums {
  drafted: number;
  accepted: number;
  cached: number;
  preemptions: number;
}

/** Asks both engines the same; adds to the sums what came of drafts. */
async function compare(
  engine: Engine,
  seed: number,
  sums: Sums,
  prepare?: (random: Random, answers: ReadonlyMap<number, readonly number[]>) => void,
): Promise<void> {
  const random = seeded(seed);
  const requests = Array.from({ length: 16 }, (_, each) => requestOf(random, each));
  const plainBefore = plain.stats();
  const expected = await Promise.all(requests.map((each) => answerOf(plain, each)));
  const ids = expected.map(({ pieces }) => pieces.map(({ token }) => token));
  prepare?.(random, new Map(ids.entries()));
  const before = engine.stats();
  const answers = await Promise.all(requests.map((each) => answerOf(engine, each)));
  expectSame(answers, expected, seed);
  expectNoLeaks(engine);
  const after = engine.stats();
  // None behind what ended an answer, whoever computed it.
  const taken = ids.reduce((sum, { length }) => sum + length, 0);
  expect(plain.stats().generatedTokens - plainBefore.generatedTokens).toBe(taken);
  expect(after.generatedTokens - before.generatedTokens).toBe(taken);
  sums.drafted += after.draftedTokens - before.draftedTokens;
  sums.accepted += after.acceptedTokens - before.acceptedTokens;
  sums.cached += after.cachedTokens - before.cachedTokens;
  sums.preemptions += after.preemptions - before.preemptions;
}

const noSums = (): Sums => ({ drafted: 0, accepted: 0, cached: 0, preemptions: 0 });

for (const [name, options] of engines)
  sweep(
    `answers ${name} are those without drafts`,
    { slice: 4, whole: 60 },
    async (seed, cases) => {
      const all = noSums();
      for (const rightness of [undefined, 0, 0.7, 1]) {
        await using engine = await Engine.load(path, { ...options, speculate });
        const sums = noSums();
        for (let i = 0; i < cases; i++)
          await compare(engine, seed + i, sums, (random, answers) => {
            if (rightness !== undefined) partlyRight(random, engine.drafter!, answers, rightness);
          });
        if (rightness === 0) expect(sums.accepted).toBe(0);
        if (rightness === 1) expect(sums.accepted / sums.drafted).toBeGreaterThan(0.9);
        for (const key of Object.keys(all) as (keyof Sums)[]) all[key] += sums[key];
      }
      expect(all.drafted).toBeGreaterThan(500);
      expect(all.accepted).toBeGreaterThan(200);
      expect(all.cached).toBeGreaterThan(0);
      if (name === "with few pages") expect(all.preemptions).toBeGreaterThan(0);
    },
  );

/** All that a draft model holds is what it keeps for prompts to come. */
function expectNoDraftLeaks(engine: Engine): void {
  const { model } = engine.drafter as DraftModel;
  const { pool, options } = model.cache;
  expect(pool.sequenceCount).toBe(0);
  const kept = (engine.drafter as DraftModel).keptPages;
  expect(kept + pool.groups[0].allocator.freeCount).toBe(options.pages);
}

for (const [name, options] of engines)
  sweep(`a draft model changes no answer ${name}`, { slice: 3, whole: 40 }, async (seed, cases) => {
    for (const model of [path, otherPath]) {
      const drafts = { method: "draft", model, draftTokensMost: 3 } as const;
      await using engine = await Engine.load(path, { ...options, speculate: drafts });
      const sums = noSums();
      for (let i = 0; i < cases; i++) {
        await compare(engine, seed + i, sums);
        expectNoDraftLeaks(engine);
      }
      expect(sums.drafted).toBeGreaterThan(100);
      // The model itself guesses right but for rounding, another now and then.
      const rate = sums.accepted / sums.drafted;
      if (model === path) expect(rate).toBeGreaterThan(0.9);
      else expect(rate).toBeLessThan(0.5);
    }
  });

test("a draft model without pages for all drafts for some, or for none", async () => {
  const drafts = { method: "draft", model: path, draftTokensMost: 3 } as const;
  await using engine = await Engine.load(path, { speculate: drafts });
  const { model } = engine.drafter as DraftModel;
  const [group] = model.cache.pool.groups;
  // Somebody else has all but a few pages.
  using other = model.cache.sequence();
  const taken = (group.allocator.freeCount - 3) * model.cache.pageSize;
  model.cache.pool.reserve([other], [taken]);
  model.cache.markWritten(model.cache.pool.lastBatch!);
  const random = seeded(4);
  const requests = Array.from({ length: 12 }, (_, each) => requestOf(random, each));
  const expected = await Promise.all(requests.map((each) => answerOf(plain, each)));
  expectSame(await Promise.all(requests.map((each) => answerOf(engine, each))), expected, 4);
  expect(engine.stats().draftedTokens).toBeGreaterThan(0);
  expectNoLeaks(engine);
});

for (const [name, options] of engines.filter(([, { pageSize }]) => pageSize !== 4))
  sweep(
    `trees of drafts change no answer ${name}`,
    { slice: 3, whole: 40 },
    async (seed, cases) => {
      const tree = { draftTokensMost: 3, branches: [2, 2] };
      for (const rightness of [undefined, 0, 0.6, 1]) {
        const drafts = { method: "draft", model: otherPath, ...tree } as const;
        await using engine = await Engine.load(path, { ...options, speculate: drafts });
        expect(engine.drafter!.draftsMost).toBe(2 + 4 + 4);
        const sums = noSums();
        for (let i = 0; i < cases; i++) {
          await compare(engine, seed + i, sums, (random, answers) => {
            if (rightness !== undefined) partlyRight(random, engine.drafter!, answers, rightness);
          });
          expectNoDraftLeaks(engine);
        }
        expect(sums.drafted).toBeGreaterThan(100);
        if (rightness === 0) expect(sums.accepted).toBe(0);
        else if (rightness !== undefined) expect(sums.accepted).toBeGreaterThan(50);
      }
    },
  );

test("a tree of the model's own drafts stands to its depth, and more of it than of a chain", async () => {
  const random = seeded(11);
  const requests = Array.from({ length: 12 }, () => ({
    tokens: Array.from({ length: 8 }, () => random.integer(0, 200)),
    maxTokens: 31,
    ignoreEnd: true,
    sampling: { temperature: 0 },
  }));
  const rateOf = async (model: string, branches: number[]) => {
    const drafts = { method: "draft", model, draftTokensMost: 3, branches } as const;
    await using engine = await Engine.load(path, { pages: 100, speculate: drafts });
    await Promise.all(requests.map((each) => answerOf(engine, each)));
    const { drafts: rows, acceptedTokens } = engine.stats();
    return acceptedTokens / rows;
  };
  expect(await rateOf(path, [])).toBeGreaterThan(2.5);
  expect(await rateOf(path, [2, 2])).toBeGreaterThan(2.5);
  expect(await rateOf(otherPath, [8, 2])).toBeGreaterThan(1.2 * (await rateOf(otherPath, [])));
});

test("drafts that fail end drafts, and no request", async () => {
  const drafts = { method: "draft", model: path } as const;
  await using engine = await Engine.load(path, { speculate: drafts });
  const { model } = engine.drafter as DraftModel;
  const forward = model.forward.bind(model);
  let launches = 0;
  model.forward = (...step) => {
    if (++launches === 9) throw new Error("injected");
    forward(...step);
  };
  const warned: string[] = [];
  const note = ({ code, message }: Error & { code?: string }) => warned.push(`${code} ${message}`);
  process.on("warning", note);
  try {
    const random = seeded(14);
    const requests = Array.from({ length: 12 }, (_, each) => requestOf(random, each));
    const expected = await Promise.all(requests.map((each) => answerOf(plain, each)));
    for (const _ of [1, 2])
      expectSame(await Promise.all(requests.map((each) => answerOf(engine, each))), expected, 14);
  } finally {
    process.off("warning", note);
  }
  expect(warned).toEqual([expect.stringMatching(/^FLASHBUN_DRAFTS drafts failed.*: Error: inj/)]);
  expect(launches).toBe(9);
  expect(engine.stats().draftedTokens).toBeGreaterThan(0);
  expectNoLeaks(engine);
  expectNoDraftLeaks(engine);
});

test("what a draft model takes is no work of this thread", async () => {
  await using engine = await Engine.load(path, { speculate });
  let waited = 0;
  engine.drafter!.draft = async (requests) => {
    const began = performance.now();
    await Bun.sleep(10);
    waited += (performance.now() - began) / 1000;
    return requests.map(() => ({ tokens: [] }));
  };
  await engine.generate({ tokens: [5, 6, 7], maxTokens: 12, ignoreEnd: true }).text();
  const { busySeconds, hostSeconds } = engine.stats();
  expect(waited).toBeGreaterThan(0.1);
  expect(busySeconds - hostSeconds).toBeGreaterThan(0.9 * waited);
});

const decoder = { ...tinyConfig, max_position_embeddings: 1024 };
const latent = {
  num_key_value_heads: 4,
  kv_lora_rank: 24,
  qk_rope_head_dim: 8,
  qk_nope_head_dim: 16,
  v_head_dim: 24,
  q_lora_rank: null,
  n_routed_experts: 8,
  n_shared_experts: 1,
  moe_intermediate_size: 32,
  num_experts_per_tok: 2,
  first_k_dense_replace: 1,
};
const windows = { sliding_window: 20, head_dim: 16, hidden_activation: "gelu_pytorch_tanh" };
const kinds: [string, object, number[]][] = [
  ["qwen3", {}, [3, 2]],
  ["deepseek_v2", latent, [3, 2]],
  ["mistral", { sliding_window: 20 }, []],
  ["gemma3_text", windows, []],
];

test.each(kinds)("of %s, with prompts that begin alike", async (model_type, fields, branches) => {
  const config = join(folder, `${model_type}.json`);
  writeFileSync(config, JSON.stringify({ ...decoder, ...fields, model_type }));
  const sizes = { randomWeights: true, pages: 400, pageSize: 4 };
  const drafts = { method: "draft", model: config, draftTokensMost: 3, branches } as const;
  await using alone = await Engine.load(config, sizes);
  await using engine = await Engine.load(config, { ...sizes, speculate: drafts });
  const random = seeded(5);
  const shared = Array.from({ length: 400 }, () => random.integer(0, 255));
  const requests = Array.from({ length: 10 }, (_, seed) => ({
    tokens: [...shared, random.integer(0, 255)],
    maxTokens: 40,
    ignoreEnd: true,
    sampling: { temperature: seed % 2, seed },
  }));
  const expected = await Promise.all(requests.map((each) => answerOf(alone, each)));
  const { cache } = engine.model;
  let levels = 0;
  const share = cache.sharePrefixes.bind(cache);
  cache.sharePrefixes = (batch, sequences) => {
    const isShared = share(batch, sequences, () => true);
    if (isShared) levels++;
    return isShared;
  };
  // Some of another model's: these are right but for rounding.
  const { drafter } = engine;
  const draft = drafter!.draft.bind(drafter);
  drafter!.draft = async (all) =>
    (await draft(all)).map(({ tokens, parents }) => ({
      tokens: tokens.map((token) => (random.chance(0.7) ? token : token ^ 1)),
      ...(parents && { parents }),
    }));
  const answers = await Promise.all(requests.map((each) => answerOf(engine, each)));
  expectSame(answers, expected, 5);
  expectNoLeaks(engine);
  const { acceptedTokens, draftedTokens } = engine.stats();
  expect(acceptedTokens).toBeGreaterThan(100);
  expect(acceptedTokens).toBeLessThan(draftedTokens);
  expect(levels > 0).toBe(!("sliding_window" in fields));
});

test.skipIf(gpuTarget() === undefined)(
  "a tree and a chain on a GPU",
  async () => {
    const wide = { ...shape, headDim: 16, context: 96, tied: false };
    const onGpu = writeFolder(join(folder, "gpu"), tinyModel(2, wide));
    const sizes = { device: "cuda:0", dtype: "f16", pages: 64, maxBatch: 4 } as const;
    const random = seeded(8);
    const requests = Array.from({ length: 4 }, () => ({
      tokens: Array.from({ length: 20 }, () => random.integer(0, 200)),
      maxTokens: 10,
      ignoreEnd: true,
      sampling: { temperature: 0 },
    }));
    const tokensBy = async (options: EngineOptions) => {
      await using engine = await Engine.load(onGpu, { ...sizes, ...options });
      const answers = await Promise.all(requests.map((each) => answerOf(engine, each)));
      expectNoLeaks(engine);
      const { draftedTokens, acceptedTokens } = engine.stats();
      const tokens = answers.map(({ pieces }) => pieces.map(({ token }) => token));
      return { tokens, rate: acceptedTokens / draftedTokens };
    };
    const alone = await tokensBy({});
    const drafts = { method: "draft", model: onGpu, draftTokensMost: 3 } as const;
    const drafted: number[] = [];
    const { run } = DecodeGraphs.prototype;
    using _ = spyOn(DecodeGraphs.prototype, "run").mockImplementation(function (
      this: DecodeGraphs,
      batch,
      ...rest
    ) {
      // Of the model that verifies: who drafts has a token of each request.
      if (batch.tokenCount > batch.requestCount) drafted.push(batch.paddedTokens);
      run.call(this, batch, ...rest);
    });
    const chain = await tokensBy({ speculate: drafts });
    expect(chain.tokens).toEqual(alone.tokens);
    expect(drafted.length).toBeGreaterThan(1);
    for (const tokens of drafted) expect([4, 8, 16]).toContain(tokens);
    expect(chain.rate).toBeGreaterThan(0.9);
    const tree = await tokensBy({ speculate: { ...drafts, branches: [2] } });
    expect(tree.tokens).toEqual(alone.tokens);
    // One branch of two stands.
    expect(tree.rate).toBeGreaterThan(0.4);
  },
  300_000,
);

test("sampled answers have the model's probabilities (chi-square, 1 in 10,000)", async () => {
  const prompt = [9, 80, 81, 9, 80];
  const requests = 3000;
  const keeps = 3;
  await using engine = await Engine.load(path, { speculate });
  // The likeliest token each time: right as often as the model says.
  engine.drafter!.draft = async (all) =>
    all.map(({ tokens }) => ({ tokens: [likeliest(tokens)[0].token] }));
  const known = new Map<string, { token: number; probability: number }[]>();
  const likeliest = (tokens: Iterable<number>) => {
    const ids = [...tokens];
    const key = ids.join();
    if (known.has(key)) return known.get(key)!;
    const logits = naiveLogits(model, ids).at(-1)!;
    const best = logits
      .map((logit, token) => ({ token, weight: Math.exp(logit) }))
      .sort((a, b) => b.weight - a.weight)
      .slice(0, keeps);
    const sum = best.reduce((total, { weight }) => total + weight, 0);
    known.set(
      key,
      best.map(({ token, weight }) => ({ token, probability: weight / sum })),
    );
    return known.get(key)!;
  };
  const counts = new Map<string, number>();
  const sampling = { temperature: 1, topK: keeps };
  await Promise.all(
    Array.from({ length: requests }, async (_, seed) => {
      const request = { tokens: prompt, maxTokens: 3, sampling: { ...sampling, seed } };
      const { pieces } = await answerOf(engine, { ...request, ignoreEnd: true });
      const key = pieces.map(({ token }) => token).join();
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }),
  );
  const { draftedTokens, acceptedTokens } = engine.stats();
  expect(draftedTokens).toBe(requests);
  expect(acceptedTokens).toBeGreaterThan(requests / 3);
  expect(acceptedTokens).toBeLessThan(requests);
  let [chiSquare, cells, seen] = [0, 0, 0];
  for (const a of likeliest(prompt))
    for (const b of likeliest([...prompt, a.token]))
      for (const c of likeliest([...prompt, a.token, b.token])) {
        const expected = requests * a.probability * b.probability * c.probability;
        const count = counts.get([a.token, b.token, c.token].join()) ?? 0;
        chiSquare += (count - expected) ** 2 / expected;
        seen += count;
        cells++;
      }
  expect([cells, seen]).toEqual([keeps ** 3, requests]);
  // The quantile of 0.9999 at 26 degrees of freedom.
  expect(chiSquare).toBeLessThan(61.7);
});

test("what is wrong is said", async () => {
  const wrong: [object, RegExp][] = [
    [{ speculate: {} }, /speculate\.method must be one of prompt-lookup, draft/],
    [{ speculate: { method: "draft" } }, /speculate\.model/],
    [{ speculate: { method: "draft", model: join(folder, "none") } }, /none/],
    [{ speculate: { method: "draft", model: path, ngramMost: 2 } }, /ngramMost/],
    [{ speculate: { method: "draft", model: path, branches: [0] } }, /branches\[0\] must be/],
    [{ speculate: { method: "draft", model: path, branches: [1, 1, 1, 1, 1] } }, /branches.length/],
    [
      { speculate: { method: "draft", model: path, branches: [9, 9] } },
      /drafts of .*branches must/,
    ],
    [{ speculate: null }, /speculate must be/],
    [{ speculate: { method: "guess" } }, /method must be one of prompt-lookup.*"guess"/],
    [{ speculate: { ...speculate, draftTokensMost: 0 } }, /draftTokensMost must be an integer/],
    [{ speculate: { ...speculate, ngramMost: 0 } }, /ngramMost must be an integer/],
    [{ speculate: { ...speculate, ngramLeast: 4 } }, /ngramLeast must be .*1.*3/],
    [{ speculate: { ...speculate, surprise: 1 } }, /surprise/],
  ];
  for (const [options, said] of wrong)
    expect(await Engine.load(path, options as never).catch(String)).toMatch(said);
  // Two tokens have changed their places.
  const swapped = writeFolder(join(folder, "swapped"), model);
  const file = join(swapped, "tokenizer.json");
  const json = JSON.parse(readFileSync(file, "utf8"));
  const { vocab } = json.model as { vocab: Record<string, number> };
  [vocab["a"], vocab["b"]] = [vocab["b"], vocab["a"]];
  writeFileSync(file, JSON.stringify(json));
  const drafts = { speculate: { method: "draft", model: swapped } } as const;
  const first = Math.min(vocab["a"], vocab["b"]);
  expect(await Engine.load(path, drafts).catch(String)).toMatch(
    new RegExp(`speculate.model must be a model of the same vocabulary .token ${first} is another`),
  );
  const windowed = writeFolder(join(folder, "windowed"), model, {
    model_type: "mistral",
    sliding_window: 8,
  });
  const tree = { method: "draft", model: path, branches: [2] } as const;
  expect(await Engine.load(windowed, { speculate: tree }).catch(String)).toMatch(
    /speculate.branches must be left out for a model with windows/,
  );
});

test.each([false, true])(
  "drafts of a lost device end the engine (and forgetting them fails: %p)",
  async (fails) => {
    await using engine = await Engine.load(path, { speculate: { method: "prompt-lookup" } });
    const { device } = engine;
    const drafter = engine.drafter!;
    drafter.draft = async () => {
      await breakDevice(device);
      throw device.failure();
    };
    const forget = drafter.forget.bind(drafter);
    drafter.forget = (generation) => {
      drafter.forget = forget;
      if (fails) throw new Error("injected");
      forget(generation);
    };
    const warned: unknown[] = [];
    const note = (warning: Error) => warned.push(warning);
    process.on("warning", note);
    try {
      const text = engine.generate({ prompt: "hello", maxTokens: 8, ignoreEnd: true }).text();
      expect(await text.catch(String)).toMatch(
        fails ? /injected/ : /probe_spin failed with status 7/,
      );
      expect(Bun.peek.status(engine.lost)).toBe("fulfilled");
      await Bun.sleep(0);
    } finally {
      process.off("warning", note);
    }
    expect(warned).toEqual([]);
  },
);
