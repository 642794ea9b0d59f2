import { afterAll, expect, spyOn, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Graph } from "../../src/device/graph.ts";
import { Engine, type GenerateOptions } from "../../src/engine/index.ts";
import { DecodeGraphs, hasDrafts } from "../../src/models/decode-graphs.ts";
import { answerOf, partlyRight } from "../support/answers.ts";
import { seeded } from "../support/random.ts";
import { gpuTarget } from "../support/targets.ts";
import { naiveGreedy, tinyModel, writeFolder } from "../support/tiny-llama.ts";

const shape = { layers: 2, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 16 };
const folder = mkdtempSync(join(tmpdir(), "flashbun-engine-gpu-"));
afterAll(() => rmSync(folder, { recursive: true }));
const gpu = gpuTarget();

test.skipIf(gpu === undefined)("a whole decoder runs on a GPU, from ids to ids", async () => {
  const model = tinyModel(1, { ...shape, context: 128, tied: false });
  const path = writeFolder(folder, model);
  const prompts = [
    [3, 4, 5, 6, 7],
    [3, 4, 5, 9],
    [100, 5],
  ];
  const expected = prompts.map((prompt) => naiveGreedy(model, prompt, 8));
  // Rounding to f16 moves logits of this size by less.
  expect(Math.min(...expected.map(({ margin }) => margin))).toBeGreaterThan(0.02);
  await using engine = await Engine.load(path, {
    device: "cuda:0",
    dtype: "f16",
    tokenBudget: 6,
    maxBatch: 3,
  });
  const answers = await Promise.all(
    prompts.map(async (tokens) => {
      const sampling = { temperature: 0, presencePenalty: 0, logprobs: 0 };
      const said: number[] = [];
      for await (const { token, logProb } of engine.generate({
        tokens,
        maxTokens: 8,
        ignoreEnd: true,
        sampling,
      })) {
        said.push(token);
        expect(logProb!.logProb).toBeLessThan(0);
      }
      return said;
    }),
  );
  expect(answers).toEqual(expected.map(({ tokens }) => tokens));
});

/** What a layer launches, in order; small batches merge split rows by a launch of its own. */
const layerLaunches = [
  "norm",
  "matmul",
  "norm_rope_append_even",
  "attention",
  "attention_merge",
  "matmul",
  "norm",
  "matmul",
  "matmul",
];

test.skipIf(gpu === undefined)("a step of decodes is one graph of few launches", async () => {
  const sizes = { ...shape, context: 128, tied: false, headNorms: true };
  const path = writeFolder(join(folder, "qwen3"), tinyModel(2, sizes), { model_type: "qwen3" });
  await using engine = await Engine.load(path, { device: "cuda:0", dtype: "f16", maxBatch: 2 });
  const captured: string[] = [];
  let replays = 0;
  using _ = engine.device.observe({
    launching: ({ name }) => {
      if (engine.device.capturing)
        captured.push(name.replace(/^(attention|matmul|norm)_(?!merge|rope).*/, "$1"));
      else if (name.startsWith("decode graph")) replays++;
    },
  });
  const options = {
    tokens: [3, 4, 5],
    maxTokens: 6,
    ignoreEnd: true,
    sampling: { temperature: 0 },
  };
  await engine.generate(options).text();
  // The first token is the prompt's, the second that of the step that was captured.
  expect(replays).toBe(4);
  const layers = [...layerLaunches, ...layerLaunches];
  const step = ["gather_rows", "gather_rows", ...layers, "norm", "matmul"];
  expect(captured).toEqual([...step, "sample_rows"]);
  // What draws tokens is part of a graph too, what looks at those before stands behind one.
  for (const [sampling, last] of [
    [{ seed: 1 }, ["sample_rows"]],
    [{ seed: 1, presencePenalty: 1 }, []],
  ] as const) {
    captured.length = 0;
    await engine.generate({ ...options, sampling }).text();
    expect(captured).toEqual([...step, ...last]);
  }
});

test.skipIf(gpu === undefined)("drafts in captured graphs say what is said without", async () => {
  const model = tinyModel(1, { ...shape, context: 128, tied: false });
  const path = writeFolder(join(folder, "drafts"), model);
  const random = seeded(5);
  const requests: GenerateOptions[] = [];
  const expected: number[][] = [];
  const said = new Map<number, readonly number[]>();
  while (requests.length < 5) {
    const tokens = Array.from({ length: 9 }, () => random.integer(0, 200));
    const greedy = naiveGreedy(model, tokens, 12);
    // Rounding to f16 moves logits of this size by less.
    if (greedy.margin < 0.02) continue;
    const seed = requests.length;
    said.set(seed, greedy.tokens);
    expected.push(greedy.tokens);
    requests.push({ tokens, maxTokens: 12, ignoreEnd: true, sampling: { temperature: 0, seed } });
  }
  const sizes = { device: "cuda:0", dtype: "f16", maxBatch: 8 } as const;
  for (const rightness of [1, 0.6]) {
    const speculate = { method: "prompt-lookup", draftTokensMost: 3 } as const;
    await using engine = await Engine.load(path, { ...sizes, speculate });
    partlyRight(random, engine.drafter!, said, rightness);
    let drafted = 0;
    const replayed = spyOn(Graph.prototype, "replay");
    const { run } = DecodeGraphs.prototype;
    using _ = spyOn(DecodeGraphs.prototype, "run").mockImplementation(function (
      this: DecodeGraphs,
      batch,
      ...rest
    ) {
      const before = replayed.mock.calls.length;
      run.call(this, batch, ...rest);
      if (hasDrafts(batch)) drafted += replayed.mock.calls.length - before;
    });
    const answers = await Promise.all(requests.map((each) => answerOf(engine, each)));
    replayed.mockRestore();
    expect(answers.map(({ pieces }) => pieces.map(({ token }) => token))).toEqual(expected);
    const { draftedTokens, acceptedTokens } = engine.stats();
    expect(drafted).toBeGreaterThan(0);
    if (rightness === 1) expect(acceptedTokens / draftedTokens).toBeGreaterThan(0.9);
    else expect(acceptedTokens / draftedTokens).toBeWithin(0.05, 0.95);
  }
});
