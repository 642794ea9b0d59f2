import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Encoder, EncoderClosedError } from "../../src/engine/index.ts";
import { CheckpointError } from "../../src/weights/errors.ts";
import { seeded } from "../support/random.ts";
import { gpuTarget } from "../support/targets.ts";
import { writeTinyBert } from "../support/tiny-bert.ts";
import {
  naiveStates,
  smallShape,
  type TinyModel,
  tinyModel,
  type TinyShape,
  vocabularySize,
  writeFolder,
  writeGguf,
} from "../support/tiny-llama.ts";

const shape: TinyShape = { ...smallShape, headDim: 16, context: 64 };
const folder = mkdtempSync(join(tmpdir(), "flashbun-encoder-"));
afterAll(() => rmSync(folder, { recursive: true }));
const model = tinyModel(1, shape);
const random = seeded(3);
const texts = [17, 1, 5, 30, 2].map((length) =>
  Array.from({ length }, () => random.integer(0, vocabularySize - 3)),
);

/** Writes a file of sentence-transformers beside a model. */
function put(at: string, name: string, value: unknown): string {
  mkdirSync(join(at, name, ".."), { recursive: true });
  writeFileSync(join(at, name), typeof value === "string" ? value : JSON.stringify(value));
  return at;
}

const pooling = "1_Pooling/config.json";
const byMean = { pooling_mode_mean_tokens: true, pooling_mode_cls_token: false };

/** Vectors of length 1 by plain arithmetic: of the last token, or the mean of all. */
function naive(of: TinyModel, text: readonly number[], isMean = false): number[] {
  const states = naiveStates(of, text);
  const counted = isMean ? states : states.slice(-1);
  const sums = counted[0].map((_, i) => counted.reduce((sum, state) => sum + state[i], 0));
  const norm = Math.hypot(...sums);
  return sums.map((value) => value / norm);
}

function expectNear(vectors: readonly Float32Array[], expected: number[][], most: number): void {
  expect(vectors.length).toBe(expected.length);
  for (const [i, vector] of vectors.entries())
    vector.forEach((value, at) => expect(Math.abs(value - expected[i][at])).toBeLessThan(most));
}

/** The model without its head, and without the prefix that names have beside one. */
function bare({ shape: sizes, tensors }: TinyModel): TinyModel {
  const named = [...tensors].filter(([name]) => name !== "lm_head.weight");
  return {
    shape: sizes,
    tensors: new Map(named.map(([name, it]) => [name.replace(/^model\./, ""), it])),
  };
}

describe("a decoder's vectors are those of plain arithmetic", () => {
  const written = (name: string, of = model, fields = {}) =>
    writeFolder(join(folder, name), of, fields);
  const heads = { ...shape, headNorms: true, tied: true };
  const qwen = tinyModel(4, heads);
  const cases: [string, () => string, TinyModel, isMean: boolean][] = [
    ["of the last token, where nothing is said", () => written("plain"), model, false],
    [
      "of the last token, as Qwen 3 Embedding has it",
      () => {
        const at = written("qwen", bare(qwen), { model_type: "qwen3" });
        put(at, "modules.json", [
          { idx: 0, path: "", type: "sentence_transformers.models.Transformer" },
          { idx: 1, path: "pool", type: "sentence_transformers.models.Pooling" },
          { idx: 2, path: "2_Normalize", type: "sentence_transformers.models.Normalize" },
        ]);
        return put(at, "pool/config.json", {
          ...byMean,
          pooling_mode_mean_tokens: false,
          pooling_mode_lasttoken: true,
        });
      },
      qwen,
      false,
    ],
    ["of the mean", () => put(written("mean"), pooling, byMean), model, true],
    ["without a head", () => put(written("bare", bare(model)), pooling, byMean), model, true],
    ["of a GGUF file", () => writeGguf(join(folder, "it.gguf"), model), model, false],
  ];
  test.each(cases)("%s", async (_, path, of, isMean) => {
    await using encoder = await Encoder.load(path(), { tokenBudget: 40 });
    expect([encoder.dimensions, encoder.contextTokens]).toEqual([32, 40]);
    const expected = texts.map((text) => naive(of, text, isMean));
    expectNear(await encoder.embed(texts), expected, 2e-6);
    // More than are computed at once, and some at the same time.
    const many = Array.from({ length: 150 }, (_, i) => texts[i % texts.length]);
    const [all, [again]] = await Promise.all([encoder.embed(many), encoder.embed([texts[3]])]);
    expectNear(
      all,
      many.map((_, i) => expected[i % texts.length]),
      2e-6,
    );
    expectNear([again], [expected[3]], 2e-6);
    const long = await encoder.embed([Array(41).fill(1)]).catch(String);
    expect(long).toMatch(/inputs\[0\] tokens must be an integer from 1 to 40/);
  });

  test("of more short texts than run at once", async () => {
    await using encoder = await Encoder.load(written("short"), { tokenBudget: 256 });
    const short = Array.from({ length: 130 }, (_, i) => [i]);
    const expected = short.map((text) => naive(model, text));
    expectNear(await encoder.embed(short), expected, 2e-6);
  });

  test.skipIf(gpuTarget() === undefined)(
    "on a GPU, in f16",
    async () => {
      const at = put(written("gpu"), pooling, byMean);
      const options = { device: "cuda:0", dtype: "f16", tokenBudget: 64 } as const;
      await using encoder = await Encoder.load(at, options);
      const expected = texts.map((text) => naive(model, text, true));
      expectNear(await encoder.embed(texts), expected, 5e-3);
      // Texts of one token are a step of decodes.
      const ones = texts.map(([token]) => [token]);
      const alone = ones.map((text) => naive(model, text));
      for (let i = 0; i < 3; i++) expectNear(await encoder.embed(ones), alone, 5e-3);
    },
    600_000,
  );
});

test("pooling of a BERT by its first and last token", async () => {
  const at = writeTinyBert(join(folder, "bert"));
  const vectors = async (mode?: string) => {
    if (mode !== undefined) put(at, pooling, { [mode]: true });
    await using encoder = await Encoder.load(at);
    return await encoder.embed(texts.slice(0, 3));
  };
  const [mean, first, last] = [
    await vectors(),
    await vectors("pooling_mode_cls_token"),
    await vectors("pooling_mode_lasttoken"),
  ];
  expect(await vectors("pooling_mode_mean_tokens")).toEqual(mean);
  // Of one token all are the same.
  expect([first[1], last[1]]).toEqual([mean[1], mean[1]]);
  expect(new Set([mean, first, last].map((each) => each[0].join())).size).toBe(3);
});

test("who asked before it closes has vectors, who asks after is told", async () => {
  const at = writeTinyBert(join(folder, "closed"));
  // What is cut at once, what a thread cuts, and what is refused.
  const asked = [["a few"], Array.from({ length: 400 }, (_, i) => `text ${i}`), [""], ["more"]];
  const answers = (of: Encoder) => asked.map((each) => of.embed(each).catch(String));
  const open = await Encoder.load(at);
  const expected = await Promise.all(answers(open));
  expect(expected.map((each) => each.length).slice(0, 2)).toEqual([1, 400]);
  await open[Symbol.asyncDispose]();
  const encoder = await Encoder.load(at);
  const vectors = answers(encoder);
  await encoder[Symbol.asyncDispose]();
  await encoder[Symbol.asyncDispose]();
  expect(await Promise.all(vectors)).toEqual(expected);
  const late: unknown = await encoder.embed(asked[0]).catch((reason) => reason);
  expect(late).toBeInstanceOf(EncoderClosedError);
});

test("what would change the vectors is refused, by name", async () => {
  const at = writeFolder(join(folder, "wrong"), model);
  const pool = { pooling_mode_lasttoken: true };
  const dense = [{ path: "2_Dense", type: "sentence_transformers.models.Dense" }];
  const wrong: [name: string, value: unknown, said: RegExp][] = [
    [pooling, { pooling_mode_max_tokens: true }, /pools by pooling_mode_max_tokens, not by one of/],
    [pooling, { ...byMean, ...pool }, /pools by pooling_mode_mean_tokens and pooling_mode_lastto/],
    [pooling, {}, /pools by nothing/],
    [pooling, "{", /config\.json: its JSON is damaged/],
    ["modules.json", dense, /it has a module Dense, and Transformer, Pooling, Normalize are known/],
    ["modules.json", "[", /modules\.json: its JSON is damaged/],
    ["modules.json", {}, /its JSON is no list of modules/],
  ];
  for (const [name, value, said] of wrong) {
    put(at, pooling, pool);
    rmSync(join(at, "modules.json"), { force: true });
    put(at, name, value);
    const error: unknown = await Encoder.load(at).catch((reason) => reason);
    expect(error).toBeInstanceOf(CheckpointError);
    expect(String(error)).toMatch(said);
  }
  const fields: [object, RegExp][] = [
    [{ is_causal: false }, /is_causal is false, not that of a decoder/],
    [{ use_bidirectional_attention: true }, /use_bidirectional_attention is true, not that of a/],
    [{ model_type: "t5" }, /model_type is "t5", not one of llama/],
  ];
  for (const [given, said] of fields) {
    const loading = Encoder.load(writeFolder(join(folder, "field"), model, given));
    expect(await loading.catch(String)).toMatch(said);
  }
});
