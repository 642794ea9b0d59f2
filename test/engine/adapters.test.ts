import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine, type EngineOptions } from "../../src/engine/index.ts";
import { seeded } from "../support/random.ts";
import { gpuTarget } from "../support/targets.ts";
import {
  naiveGreedy,
  naiveLogits,
  packed,
  smallShape,
  type TinyModel,
  tinyModel,
  type TinyShape,
  vocabularySize,
  writeFolder,
  writeGguf,
} from "../support/tiny-llama.ts";
import {
  llamaTargets,
  merged,
  packedTargets,
  tinyAdapter,
  type TinyAdapter,
  writeAdapter,
} from "../support/tiny-lora.ts";

const shape: TinyShape = { ...smallShape, headDim: 16, context: 160 };
const folder = mkdtempSync(join(tmpdir(), "flashbun-adapters-"));
afterAll(() => rmSync(folder, { recursive: true }));
const model = tinyModel(1, shape);
const path = writeFolder(join(folder, "model"), model);

const random = seeded(5);
const draw = (length: number) =>
  Array.from({ length }, () => random.integer(0, vocabularySize - 3));
const prompt = draw(21);

/** Of different ranks, layers and scales, so that each has zeros where another has numbers. */
const adapters: Readonly<Record<string, TinyAdapter>> = {
  all: tinyAdapter(2, model, llamaTargets, { rank: 5 }),
  "q and v": tinyAdapter(3, model, ["q_proj", "v_proj"], { rank: 8, alpha: 12, rslora: true }),
  down: tinyAdapter(4, model, ["down_proj", "o_proj"], {
    ranks: { "layers.1.mlp.down_proj": 3 },
    alphas: { o_proj: 9 },
  }),
};
const folders = Object.fromEntries(
  Object.entries(adapters).map(([name, each]) => [name, writeAdapter(join(folder, name), each)]),
);
const names = [undefined, ...Object.keys(adapters)];
const modelOf = (name: string | undefined) =>
  name === undefined ? model : merged(model, adapters[name]);

/** Tokens and the bits of what was computed of them. */
interface Said {
  readonly tokens: number[];
  readonly logProbs: number[][];
  readonly cached: number;
}

async function ask(
  engine: Engine,
  tokens: readonly number[],
  adapter?: string,
  maxTokens = 10,
): Promise<Said> {
  const sampling = { temperature: 0, logprobs: 20 };
  const generation = engine.generate({
    tokens,
    maxTokens,
    ignoreEnd: true,
    sampling,
    ...(adapter !== undefined && { adapter }),
  });
  const said: Said = { tokens: [], logProbs: [], cached: 0 };
  for await (const { token, logProb } of generation) {
    said.tokens.push(token);
    said.logProbs.push(logProb!.top.flatMap((each) => [each.token, each.logProb]));
  }
  return { ...said, cached: generation.cachedTokens };
}

/** How far the log-probabilities of two answers are apart. */
function apart(a: Said, b: Said): number {
  const [one, other] = [a.logProbs.flat(), b.logProbs.flat()];
  return Math.max(...one.map((value, i) => Math.abs(value - other[i])));
}

/** How far log-probabilities after the prompt are from those of f64. */
function distance({ logProbs: [first] }: Said, exact: TinyModel): number {
  const logits = naiveLogits(exact, prompt).at(-1)!;
  const most = Math.max(...logits);
  const sum = logits.reduce((held, logit) => held + Math.exp(logit - most), 0);
  let far = 0;
  for (let i = 0; i < first.length; i += 2)
    far = Math.max(far, Math.abs(first[i + 1] - (logits[first[i]] - most - Math.log(sum))));
  return far;
}

describe("an adapter's answers are those of weights with it merged in", () => {
  const twice = { rank: 6, alpha: 6 };
  const targets = llamaTargets;
  const layerOne = { without: /layers\.1\./, fields: { layers_to_transform: [0] } };
  const cases: [string, TinyShape, readonly string[], object, object?][] = [
    ["of all projections", shape, targets, {}],
    ...targets.map((it): [string, TinyShape, string[], object] => [`of ${it}`, shape, [it], {}]),
    ["by the root of the rank", shape, targets, { ...twice, rslora: true }],
    [
      "with ranks and alphas of their own",
      shape,
      targets,
      {
        ranks: { "layers.0.self_attn.k_proj": 2, up_proj: 7 },
        alphas: { "self_attn.v_proj": 11 },
      },
    ],
    ["of one layer", shape, targets, layerOne],
    ["by a pattern", shape, ["q_proj", "up_proj"], { fields: { target_modules: ".*(q|up)_proj" } }],
    ["of all linear layers", shape, targets, { fields: { target_modules: "all-linear" } }],
    [
      "but some",
      shape,
      ["q_proj", "o_proj"],
      {
        fields: { target_modules: ["q_proj", "k_proj", "o_proj"], exclude_modules: ["k_proj"] },
      },
    ],
    ["of Qwen 2", { ...shape, biased: true }, targets, {}, { model_type: "qwen2" }],
    ["of Qwen 3", { ...shape, headNorms: true }, targets, {}, { model_type: "qwen3" }],
  ];
  test.each(cases)("%s", async (name, of, modules, options, fields = {}) => {
    const base = tinyModel(1, of);
    const adapter = tinyAdapter(11, base, modules, options);
    const exact = merged(base, adapter);
    const at = writeFolder(join(folder, `model ${name}`), base, fields);
    const lora = writeAdapter(join(folder, `adapter ${name}`), adapter);
    await using engine = await Engine.load(at, { adapters: { it: lora } });
    const expected = naiveGreedy(exact, prompt, 10);
    expect(expected.margin).toBeGreaterThan(1e-4);
    expect(expected.tokens).not.toEqual(naiveGreedy(base, prompt, 10).tokens);
    const said = await ask(engine, prompt, "it");
    expect(said.tokens).toEqual(expected.tokens);
    expect(distance(said, exact)).toBeLessThan(2e-4);
    expect(distance(said, base)).toBeGreaterThan(1e-2);
  });

  test("of packed projections, and of a GGUF file", async () => {
    const phi = packed(model);
    const adapter = tinyAdapter(8, phi, packedTargets);
    const files = [
      [writeFolder(join(folder, "phi"), phi, { model_type: "phi3" }), phi, adapter],
      [writeGguf(join(folder, "model.gguf"), model), model, adapters["all"]],
    ] as const;
    for (const [at, base, of] of files) {
      const lora = writeAdapter(join(folder, "one of two"), of);
      await using engine = await Engine.load(at, { adapters: { it: lora } });
      const whole = merged(base, of);
      const apart = base === phi ? unpacked(whole) : whole;
      const said = await ask(engine, prompt, "it");
      expect(said.tokens).toEqual(naiveGreedy(apart, prompt, 10).tokens);
      expect(distance(said, apart)).toBeLessThan(2e-4);
    }
  });
});

/** Packed projections as the model of plain arithmetic knows them. */
function unpacked({ tensors }: TinyModel): TinyModel {
  const made = new Map(tensors);
  const parts = {
    "self_attn.qkv_proj": { q: 64, k: 32, v: 32 },
    "mlp.gate_up_proj": { gate: 48, up: 48 },
  };
  for (const [name, { values }] of tensors)
    for (const [packs, counts] of Object.entries(parts)) {
      if (!name.includes(packs)) continue;
      let from = 0;
      for (const [part, rows] of Object.entries(counts)) {
        const own = values.slice(from * shape.hidden, (from += rows) * shape.hidden);
        const to = name.replace(/\.\w+_proj/, `.${part}_proj`);
        made.set(to, { shape: [rows, shape.hidden], values: own });
      }
    }
  return { shape, tensors: made };
}

describe("requests of several adapters and of none, in one batch", () => {
  // Attention sums what it sees in an order that depends on how a prompt is cut.
  const ways: [string, EngineOptions, most: number][] = [
    ["at once", {}, 0],
    ["without graphs for their number", { maxBatch: 24 }, 0],
    ["in chunks", { tokenBudget: 6, maxBatch: 6 }, 1e-5],
    ["with drafts", { speculate: { method: "prompt-lookup" } }, 1e-5],
    ["with few pages, preempted", { pages: 22, pageSize: 4 }, 1e-5],
  ];
  test.each(ways)("each is as alone: %s", async (way, options, most) => {
    const prompts = [prompt, prompt.slice(0, 9), draw(13), draw(1)];
    const asked = prompts.flatMap((tokens) => names.map((name) => ({ tokens, name })));
    const alone: Said[] = [];
    for (const { tokens, name } of asked) {
      await using engine = await Engine.load(path, { adapters: folders });
      alone.push(await ask(engine, tokens, name));
    }
    await using engine = await Engine.load(path, { ...options, adapters: folders });
    const together = await Promise.all(asked.map((one) => ask(engine, one.tokens, one.name)));
    for (const [i, { tokens, name }] of asked.entries()) {
      expect(together[i].tokens, `${name}, ${tokens.length} tokens`).toEqual(alone[i].tokens);
      expect(apart(together[i], alone[i])).toBeLessThanOrEqual(most);
    }
    const exact = names.map((name) => naiveGreedy(modelOf(name), prompt, 10));
    expect(Math.min(...exact.map(({ margin }) => margin))).toBeGreaterThan(1e-4);
    expect(together.slice(0, names.length).map((each) => each.tokens)).toEqual(
      exact.map((each) => each.tokens),
    );
    const { requests, preemptions } = engine.stats();
    expect(requests).toBe(0);
    expect(preemptions > 0).toBe(way.includes("preempted"));
  });

  test("a prefix that was computed with one adapter is not another's", async () => {
    await using engine = await Engine.load(path, { adapters: folders, pageSize: 4 });
    const first: Said[] = [];
    for (const name of names) first.push(await ask(engine, prompt, name));
    expect(first.map(({ cached }) => cached)).toEqual([0, 0, 0, 0]);
    const exact = names.map((name) => naiveGreedy(modelOf(name), prompt, 10).tokens);
    expect(first.map(({ tokens }) => tokens)).toEqual(exact);
    for (const [i, name] of names.entries()) {
      const again = await ask(engine, prompt, name);
      expect([again.tokens, again.cached]).toEqual([exact[i], 20]);
      expect(apart(again, first[i])).toBeLessThan(1e-5);
    }
  });
});

test("adapters come and go while others are answered", async () => {
  await using engine = await Engine.load(path, { adapters: { all: folders["all"] }, pageSize: 4 });
  const long = [ask(engine, prompt, "all", 60), ask(engine, prompt, undefined, 60)];
  const bytes = engine.model.weightBytes;
  await Promise.race(long.map(() => ask(engine, draw(3), "all", 4)));
  await engine.loadAdapter("down", folders["down"]);
  expect(engine.adapters).toEqual(["all", "down"]);
  expect(engine.model.weightBytes).toBeGreaterThan(bytes);
  const down = naiveGreedy(modelOf("down"), prompt, 10).tokens;
  expect((await ask(engine, prompt, "down")).tokens).toEqual(down);
  expect(await engine.unloadAdapter("all").catch(String)).toMatch(/one that no request has/);
  const [adapted, plain] = await Promise.all(long);
  expect(adapted.tokens).toEqual(naiveGreedy(modelOf("all"), prompt, 60).tokens);
  expect(plain.tokens).toEqual(naiveGreedy(model, prompt, 60).tokens);
  await engine.unloadAdapter("all");
  expect(() => engine.generate({ tokens: [1], adapter: "all" })).toThrow(/one of down/);
  // The name stands for others now, whose prefixes are not those of before.
  await engine.loadAdapter("all", folders["q and v"]);
  const other = await ask(engine, prompt, "all");
  expect(other.cached).toBe(0);
  expect(other.tokens).toEqual(naiveGreedy(modelOf("q and v"), prompt, 10).tokens);
  expect((await ask(engine, prompt, "down")).tokens).toEqual(down);
  for (const name of ["all", "down"]) await engine.unloadAdapter(name);
  expect((await ask(engine, prompt)).tokens).toEqual(naiveGreedy(model, prompt, 10).tokens);
  const nobody = /absent: no adapter is loaded/;
  expect(() => engine.generate({ tokens: [1], adapter: "all" })).toThrow(nobody);
  expect(await engine.unloadAdapter("all").catch(String)).toMatch(nobody);
  expect(await engine.loadAdapter("", folders["all"]).catch(String)).toMatch(/adapter must be a n/);
});

test.skipIf(gpuTarget() === undefined)(
  "on a GPU, in f16, by graphs and without",
  async () => {
    const options = { device: "cuda:0", dtype: "f16", maxBatch: 4, tokenBudget: 32 } as const;
    await using engine = await Engine.load(path, { ...options, adapters: folders });
    const graphs = new Set<string>();
    using _ = engine.device.observe({
      launching: ({ name }) => void (name.startsWith("decode graph") && graphs.add(name)),
    });
    const alone: Said[] = [];
    for (const name of names) alone.push(await ask(engine, prompt, name, 5));
    const together = await Promise.all(names.map((name) => ask(engine, prompt, name, 5)));
    for (const [i, name] of names.entries()) {
      const exact = naiveGreedy(modelOf(name), prompt, 5);
      // Rounding to f16 moves logits of this size by less.
      expect(exact.margin).toBeGreaterThan(0.02);
      expect(together[i].tokens).toEqual(exact.tokens);
      expect(alone[i].tokens).toEqual(exact.tokens);
      expect(distance(alone[i], modelOf(name))).toBeLessThan(0.05);
    }
    // Rows without an adapter are rounded as in steps without one.
    expect(apart(together[0], alone[0])).toBe(0);
    expect([...graphs]).toContain("decode graph of 1 with adapters");
    expect([...graphs]).toContain("decode graph of 1");
    expect([...graphs]).toContain("decode graph of 4 with adapters");
  },
  600_000,
);
