import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine, type EngineOptions, type GenerateOptions } from "../../src/engine/index.ts";
import { engineSchemas } from "../../src/engine/options.ts";
import { OptionError } from "../../src/errors.ts";
import { answerOf, expectNoLeaks } from "../support/answers.ts";
import { sweep } from "../support/deep.ts";
import { seeded } from "../support/random.ts";
import { askRanks } from "../support/ranks.ts";
import { gpuTarget } from "../support/targets.ts";
import { coded, naiveGreedy, tinyModel, writeFolder, writeGguf } from "../support/tiny-llama.ts";
import { llamaTargets, merged, tinyAdapter, writeAdapter } from "../support/tiny-lora.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-pairs-"));
afterAll(() => rmSync(folder, { recursive: true }));
const shape = { layers: 2, hidden: 32, intermediate: 64, queryHeads: 4, kvHeads: 2, headDim: 16 };
const model = tinyModel(1, { ...shape, context: 128, tied: false });
const path = writeFolder(join(folder, "model"), model);
const codesPath = writeGguf(join(folder, "codes.gguf"), model, true);
const otherPath = writeFolder(
  join(folder, "other"),
  tinyModel(21, { ...shape, layers: 1, context: 80, tied: true }),
);
const adapter = tinyAdapter(2, model, llamaTargets, { rank: 5 });
const adapters = { one: writeAdapter(join(folder, "one"), adapter) };

/** What an engine may be made with, one thing each. */
const kinds: Record<string, EngineOptions> = {
  "weights in codes": {},
  adapters: { adapters },
  "prompt lookup": { speculate: { method: "prompt-lookup", ngramLeast: 1 } },
  "a draft model": { speculate: { method: "draft", model: otherPath, draftTokensMost: 3 } },
  "a tree of drafts": { speculate: { method: "draft", model: otherPath, branches: [2, 2] } },
  deterministic: { deterministic: true },
  "exact of codes": { exact: true },
  f16: { dtype: "f16" },
  "no cascade": { cascade: false },
  "chunks of prompts": { tokenBudget: 9 },
  "a small batch": { maxBatch: 3 },
  "few pages": { pages: 44 },
  "small pages": { pageSize: 4 },
  dcp: { dcp: 2 },
};
/** What is refused without ranks, whatever it is beside; and a pair that is. */
const withRanks = ["dcp"];
const refusedPairs = ["a tree of drafts, deterministic"];
/** What is refused beside ranks. */
const alone = ["deterministic"];
/** Options that have a sweep of their own below, and two of which answers say nothing. */
const apart = ["device", "tp", "randomWeights", "onLoad"];

test("every option of an engine is of a kind, or has its own sweep", () => {
  const said = Object.values(kinds).flatMap((kind) => Object.keys(kind));
  expect([...new Set(said), ...apart].sort()).toEqual(Object.keys(engineSchemas).sort());
});

const names = Object.keys(kinds);
const pairs = names.flatMap((a, i) =>
  names
    .slice(i)
    .filter((b) => a === b || !Object.keys(kinds[a]).some((key) => key in kinds[b]))
    .map((b): [string, EngineOptions] => [
      a === b ? a : `${a}, ${b}`,
      { ...kinds[a], ...kinds[b] },
    ]),
);

const random = seeded(6);
const shared = Array.from({ length: 33 }, () => random.integer(0, 200));
const prompts = [
  [3, 4, 5, 6, 7],
  [100, 5],
  [...shared, 9],
  [...shared, 9, 9, 3],
  [...shared, 40, 41, 40, 41, 40, 41],
  [3, 4, 5, 9],
];
const length = 12;

/** Answers of the model alone, in f64. */
const oracle = (of: typeof model) => prompts.map((prompt) => naiveGreedy(of, prompt, length));
const inCodes = coded(model);
const [expected, adapted, ofCodes, adaptedCodes] = [
  model,
  merged(model, adapter),
  inCodes,
  merged(inCodes, adapter),
].map(oracle);

test("no token is a close call: f32 moves logits by less", () => {
  for (const { margin } of [...expected, ...adapted]) expect(margin).toBeGreaterThan(1e-4);
});

const requestOf = (tokens: readonly number[]): GenerateOptions => ({
  tokens,
  maxTokens: length,
  ignoreEnd: true,
  sampling: { temperature: 0 },
});

/** How far rounding may move logits. */
function marginOf({ dtype }: EngineOptions, isOfCodes: boolean): number {
  // As codes are multiplied where `exact` is not said, activations have 16 bits.
  return dtype === "f16" ? 0.02 : isOfCodes ? 1e-3 : 0;
}

/** Asks all at once; those that are less clear than rounding are not looked at. */
async function expectOracle(name: string, options: EngineOptions): Promise<void> {
  const isOfCodes = name.includes("codes");
  const margin = marginOf(options, isOfCodes);
  await using engine = await Engine.load(isOfCodes ? codesPath : path, options);
  const ask = async (answers: typeof expected, adapter?: string) => {
    const own = adapter === undefined ? {} : { adapter };
    const said = await Promise.all(
      prompts.map((prompt) => answerOf(engine, { ...requestOf(prompt), ...own })),
    );
    const tokens = said.map(({ pieces }) => pieces.map(({ token }) => token));
    const clear = (_: unknown, i: number) => answers[i].margin >= margin;
    expect(answers.filter(clear).length).toBeGreaterThan(1);
    expect(tokens.filter(clear)).toEqual(answers.filter(clear).map((answer) => answer.tokens));
  };
  const [plain, through] = isOfCodes ? [ofCodes, adaptedCodes] : [expected, adapted];
  await Promise.all([ask(plain), options.adapters && ask(through, "one")]);
  // Once more, from cached pages.
  await ask(plain);
  expectNoLeaks(engine);
}

function isRefused(name: string): boolean {
  return refusedPairs.includes(name) || withRanks.some((one) => name.split(", ").includes(one));
}

test.each(pairs)("%s", async (name, options) => {
  if (!isRefused(name)) return await expectOracle(name, options);
  await expect(Engine.load(path, options)).rejects.toBeInstanceOf(OptionError);
});

sweep("beside two ranks", { slice: 2, whole: names.length }, async (seed, cases) => {
  const possible = names.filter((name) => !alone.includes(name));
  const first = seeded(seed).integer(0, possible.length - 1);
  const taken = Array.from(
    { length: cases },
    (_, i) => possible[(first + 5 * i) % possible.length],
  );
  const requests = prompts.map(requestOf);
  const jobs = taken.map((name) => {
    return { path: name.includes("codes") ? codesPath : path, requests, options: kinds[name] };
  });
  const found = await askRanks(2, jobs);
  found.forEach(({ answers }, i) => {
    const name = taken[i];
    const wanted = name.includes("codes") ? ofCodes : expected;
    const margin = marginOf(kinds[name], name.includes("codes"));
    const clear = (_: unknown, at: number) => wanted[at].margin >= margin;
    const [said, tokens] = [answers, wanted].map((of) => of.filter(clear).map((x) => x.tokens));
    expect([name, said]).toEqual([name, tokens]);
    expect(tokens.length).toBeGreaterThan(1);
  });
});

if (gpuTarget() !== undefined)
  sweep("on a GPU", { slice: 2, whole: pairs.length }, async (seed, cases) => {
    const possible = pairs.filter(([name]) => !isRefused(name));
    const first = seeded(seed).integer(0, possible.length - 1);
    for (let i = 0; i < cases; i++) {
      const [name, options] = possible[(first + 7 * i) % possible.length];
      const sizes = { pages: 64, maxBatch: 4, ...options };
      await expectOracle(name, { ...sizes, device: "cuda:0", dtype: "f16" });
    }
  });
