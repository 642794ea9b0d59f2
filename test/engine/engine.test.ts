import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine, type EngineOptions } from "../../src/engine/index.ts";
import { seeded } from "../support/random.ts";
import {
  naiveGreedy,
  packed,
  smallShape,
  tinyModel,
  type TinyMixture,
  type TinyShape,
  vocabularySize,
  writeFolder,
  writeGguf,
} from "../support/tiny-llama.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-engine-"));
afterAll(() => rmSync(folder, { recursive: true }));
const model = tinyModel(1, smallShape);
const path = writeFolder(join(folder, "tiny"), model);

/** Prompts of several lengths, some of which begin alike. */
function promptsOf(seed: number, count: number): number[][] {
  const random = seeded(seed);
  const tokens = (length: number) =>
    Array.from({ length }, () => random.integer(0, vocabularySize - 3));
  const system = tokens(19);
  return Array.from({ length: count }, (_, i) => [
    ...(i % 2 === 0 ? system : []),
    ...tokens(random.integer(1, 12)),
  ]);
}

const prompts = promptsOf(7, 6);
const expected = prompts.map((prompt) => naiveGreedy(model, prompt, 12));

async function tokensOf(engine: Engine, prompt: readonly number[]): Promise<number[]> {
  const generation = engine.generate({
    tokens: prompt,
    maxTokens: 12,
    ignoreEnd: true,
    sampling: { temperature: 0 },
  });
  const tokens: number[] = [];
  for await (const { token } of generation) tokens.push(token);
  expect(generation.finishReason).toBe("length");
  return tokens;
}

test("the two best logits are far enough apart to compare tokens", () => {
  expect(Math.min(...expected.map(({ margin }) => margin))).toBeGreaterThan(1e-4);
  const distinct = new Set(expected.flatMap(({ tokens }) => tokens));
  expect(distinct.size).toBeGreaterThan(10);
});

describe("greedy tokens are those of a recompute in f64", () => {
  const cases: [string, EngineOptions][] = [
    ["by default", {}],
    ["prompts in chunks of five tokens", { tokenBudget: 5, maxBatch: 5 }],
    ["one after the other", { maxBatch: 1 }],
    ["with pages for two, preempted", { pages: 14, pageSize: 4 }],
    ["with pages of one token", { pageSize: 1 }],
  ];
  test.each(cases)("%s", async (_, options) => {
    await using engine = await Engine.load(path, options);
    const tokens = await Promise.all(prompts.map((prompt) => tokensOf(engine, prompt)));
    expect(tokens).toEqual(expected.map((each) => each.tokens));
    // A second time from cached prompts.
    const again = await Promise.all(prompts.map((prompt) => tokensOf(engine, prompt)));
    expect(again).toEqual(tokens);
    const stats = engine.stats();
    expect(stats.cachedTokens).toBeGreaterThan(0);
    expect([stats.requests, stats.generatedTokens]).toEqual([0, 2 * 12 * prompts.length]);
  });

  test("from a GGUF file, whose rows of Q and K are reordered", async () => {
    await using engine = await Engine.load(writeGguf(join(folder, "tiny.gguf"), model));
    expect(await tokensOf(engine, prompts[0])).toEqual(expected[0].tokens);
  });

  test("from a GGUF file that scales the frequencies of RoPE", async () => {
    const scaled = tinyModel(1, { ...smallShape, ropeDivisors: [1, 1.5, 4, 8] });
    await using engine = await Engine.load(writeGguf(join(folder, "scaled.gguf"), scaled));
    const { tokens } = naiveGreedy(scaled, prompts[0], 12);
    expect(await tokensOf(engine, prompts[0])).toEqual(tokens);
    expect(tokens).not.toEqual(expected[0].tokens);
  });

  test("with a head in the file that the embedding stands for", async () => {
    const both = { ...model, shape: { ...smallShape, tied: true } };
    await using engine = await Engine.load(writeFolder(join(folder, "both"), both));
    expect(await tokensOf(engine, prompts[1])).toEqual(naiveGreedy(both, prompts[1], 12).tokens);
  });

  test("with the head tied to the embedding", async () => {
    const tied = tinyModel(3, { ...smallShape, tied: true });
    await using engine = await Engine.load(writeFolder(join(folder, "tied"), tied));
    expect(await tokensOf(engine, prompts[1])).toEqual(naiveGreedy(tied, prompts[1], 12).tokens);
  });
});

const sampling = { temperature: 0 };

test("a step is queued before the tokens of the one before it are known", async () => {
  await using engine = await Engine.load(path);
  const steps: number[] = [];
  const options = { tokens: prompts[0], maxTokens: 5, ignoreEnd: true, sampling };
  for await (const { token } of engine.generate(options)) {
    expect(token).toBe(expected[0].tokens[steps.length]);
    steps.push(engine.stats().steps);
  }
  // When a token is read, one step runs and the next is queued; the last token has none behind it.
  expect(steps).toEqual([3, 4, 5, 5, 5]);
});

describe("requests end", () => {
  test("by a stop string, which the text does not hold", async () => {
    await using engine = await Engine.load(path);
    const whole = engine.generate({
      tokens: prompts[0],
      maxTokens: 12,
      ignoreEnd: true,
      sampling,
    });
    const text = await whole.text();
    const stop = text.slice(Math.floor(text.length / 2), Math.floor(text.length / 2) + 2);
    const cut = engine.generate({
      tokens: prompts[0],
      maxTokens: 12,
      ignoreEnd: true,
      stop,
      sampling,
    });
    expect(await cut.text()).toBe(text.slice(0, text.indexOf(stop)));
    expect([cut.finishReason, cut.stopString]).toEqual(["stop", stop]);
    expect(engine.stats().requests).toBe(0);
  });

  test("by a stop token, which is given", async () => {
    await using engine = await Engine.load(path);
    const [, , third] = expected[0].tokens;
    const first = expected[0].tokens.indexOf(third);
    const generation = engine.generate({ tokens: prompts[0], stopTokens: [third], sampling });
    const tokens: number[] = [];
    for await (const { token } of generation) tokens.push(token);
    expect(tokens).toEqual(expected[0].tokens.slice(0, first + 1));
    expect(generation.finishReason).toBe("stop");
  });

  test("by leaving the loop, by abort and by a signal: pages come back", async () => {
    await using engine = await Engine.load(path);
    const options = { tokens: prompts[0], maxTokens: 90, ignoreEnd: true };
    for await (const _ of engine.generate(options)) break;
    const aborted = engine.generate(options);
    aborted.abort();
    expect(await aborted.text()).toBe("");
    expect(aborted.finishReason).toBe("abort");
    const abort = new AbortController();
    const signalled = engine.generate({ ...options, signal: abort.signal });
    const failure = signalled.text().catch(String);
    abort.abort(new Error("enough"));
    expect(await failure).toBe("Error: enough");
    await tokensOf(engine, prompts[1]);
    expect(engine.stats().requests).toBe(0);
  });

  test("for one reader, and a signal forgets those that ended", async () => {
    await using engine = await Engine.load(path);
    const { signal } = new AbortController();
    let listeners = 0;
    signal.addEventListener = () => void listeners++;
    signal.removeEventListener = () => void listeners--;
    const generation = engine.generate({ tokens: prompts[0], maxTokens: 2, signal });
    await generation.text();
    expect(listeners).toBe(0);
    expect(await generation.text().catch(String)).toMatch(/one that nobody has read/);
    // Nobody read a token of it.
    await engine.generate({ tokens: prompts[0] })[Symbol.asyncIterator]().return!();
    await tokensOf(engine, prompts[1]);
    expect(engine.stats().requests).toBe(0);
  });

  test("when the engine closes", async () => {
    const engine = await Engine.load(path);
    const generation = engine.generate({ tokens: prompts[0], maxTokens: 90, ignoreEnd: true });
    const failure = generation.text().catch(String);
    await engine[Symbol.asyncDispose]();
    expect(await failure).toMatch(/the engine was closed/);
    expect(() => engine.generate({ prompt: "x" })).toThrow(/the engine was closed/);
  });
});

describe("what is wrong is said", () => {
  test("of requests", async () => {
    await using engine = await Engine.load(path);
    const wrong: [object, RegExp][] = [
      [{}, /options must be one of messages, prompt and tokens/],
      [{ prompt: "a", tokens: [1] }, /options must be one of/],
      [{ tokens: [vocabularySize] }, /tokens\[0\] must be/],
      [{ tokens: [] }, /prompt tokens must be/],
      [{ tokens: Array(128).fill(1) }, /prompt tokens must be/],
      [{ prompt: "a".repeat(2000) }, /prompt must be a text of at most \d+ characters/],
      [{ prompt: "a", stop: Array(17).fill("x") }, /stop must be a text or a list of at most 16/],
      [{ prompt: "a", maxTokens: 0 }, /maxTokens must be/],
      [{ prompt: "a", maxTokens: 128 }, /maxTokens must be/],
      [{ prompt: "a", stop: "" }, /stop must be a text or a list of at most 16 texts/],
      [{ messages: [] }, /messages must be one or more/],
      [{ prompt: "a", surprise: 1 }, /surprise/],
      [{ prompt: "a", sampling: { topP: 0 } }, /sampling\.topP must be a number above 0/],
      [{ prompt: "a", sampling: { logitBias: { 9999: 1 } } }, /logitBias token must be/],
    ];
    for (const [options, said] of wrong)
      expect(() => engine.generate(options as never), JSON.stringify(options)).toThrow(said);
    expect(engine.stats().requests).toBe(0);
  });

  test("of models that would be something else", async () => {
    const more = new Map(model.tensors);
    more.set("model.layers.0.self_attn.o_proj.bias", {
      shape: [smallShape.hidden],
      values: new Float32Array(smallShape.hidden),
    });
    const loading = Engine.load(
      writeFolder(join(folder, "more"), { shape: smallShape, tensors: more }),
    );
    expect(await loading.catch(String)).toMatch(
      /knows its tensor model\.layers\.0\.self_attn\.o_proj/,
    );
    const wrong: [object, RegExp][] = [
      [{ hidden_act: "gelu" }, /hidden_act is "gelu", not one of silu/],
      [{ model_type: "other" }, /model_type is "other", not one of llama/],
      [{ hidden_size: 31 }, /model\.layers\.0\.input_layernorm\.weight is \[32\], and \[31\]/],
      [{ num_hidden_layers: 3 }, /it has no tensor model\.layers\.2/],
      [{ num_hidden_layers: 1 }, /knows its tensor model\.layers\.1/],
      [{ rope_scaling: { rope_type: "new" } }, /rope_scaling is .*, not of kind default/],
      [{ use_sliding_window: true, sliding_window: 8 }, /use_sliding_window is true, not false/],
      [{ rms_norm_eps: -1 }, /rms_norm_eps is -1, not a positive number/],
    ];
    for (const [fields, said] of wrong) {
      const other = Engine.load(writeFolder(join(folder, "wrong"), model, fields));
      expect(await other.catch(String)).toMatch(said);
    }
  });

  const kinds: [string, Partial<TinyShape>][] = [
    ["qwen2", { biased: true }],
    ["qwen3", { headNorms: true }],
  ];
  test.each(kinds)("as %s has it", async (model_type, parts) => {
    const other = tinyModel(4, { ...smallShape, ...parts });
    const loading = Engine.load(writeFolder(join(folder, model_type), other, { model_type }));
    await using engine = await loading;
    const { tokens, margin } = naiveGreedy(other, prompts[0], 12);
    expect(margin).toBeGreaterThan(1e-4);
    expect(await tokensOf(engine, prompts[0])).toEqual(tokens);
  });

  const mixtures: [string, TinyMixture, object][] = [
    [
      "mixtral",
      { kind: "mixtral", experts: 5, topK: 2, renormalize: true },
      { num_local_experts: 5 },
    ],
    [
      "qwen3_moe",
      { kind: "qwen3_moe", experts: 6, topK: 3, renormalize: false },
      { num_experts: 6, moe_intermediate_size: smallShape.intermediate, intermediate_size: 999 },
    ],
  ];
  test.each(mixtures)("a mixture of experts, as %s has it", async (model_type, mixed, fields) => {
    const other = tinyModel(4, {
      ...smallShape,
      mixture: mixed,
      headNorms: model_type !== "mixtral",
    });
    const all = { model_type, num_experts_per_tok: mixed.topK, ...fields };
    await using engine = await Engine.load(writeFolder(join(folder, model_type), other, all));
    const few = prompts.slice(0, 3);
    const tokens = await Promise.all(few.map((prompt) => tokensOf(engine, prompt)));
    const naive = few.map((prompt) => naiveGreedy(other, prompt, 12));
    expect(Math.min(...naive.map(({ margin }) => margin))).toBeGreaterThan(1e-4);
    expect(tokens).toEqual(naive.map((each) => each.tokens));
  });

  test("packed projections, as Phi-3 has them", async () => {
    const fields = { model_type: "phi3" };
    await using engine = await Engine.load(
      writeFolder(join(folder, "phi3"), packed(model), fields),
    );
    expect(await tokensOf(engine, prompts[0])).toEqual(expected[0].tokens);
  });

  test("with a window, as Mistral has one", async () => {
    const fields = { model_type: "mistral", sliding_window: 8 };
    await using engine = await Engine.load(writeFolder(join(folder, "window"), model, fields));
    const windowed = { ...model, shape: { ...smallShape, window: 8 } };
    const { tokens } = naiveGreedy(windowed, prompts[0], 12);
    expect(await tokensOf(engine, prompts[0])).toEqual(tokens);
    expect(tokens).not.toEqual(expected[0].tokens);
  });

  test("of models", async () => {
    await expect(Engine.load("/absent")).rejects.toThrow(/cannot be read \(ENOENT\)/);
    await expect(Engine.load(path, { surprise: 1 } as never)).rejects.toThrow(/surprise/);
    await expect(Engine.load(path, { maxBatch: 600 })).rejects.toThrow(/maxBatch must be/);
  });
});
