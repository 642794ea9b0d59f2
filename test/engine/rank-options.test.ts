/** What else an engine may have, beside ranks: the same tokens as of one. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine } from "../../src/engine/index.ts";
import { askRanks, type RanksJob, refusedByRanks } from "../support/ranks.ts";
import { naiveGreedy, packed, smallShape, tinyModel, writeFolder } from "../support/tiny-llama.ts";
import {
  llamaTargets,
  merged,
  packedTargets,
  tinyAdapter,
  writeAdapter,
} from "../support/tiny-lora.ts";

const seconds = 240_000;
const folder = mkdtempSync(join(tmpdir(), "flashbun-rank-options-"));
afterAll(() => rmSync(folder, { recursive: true }));
const shape = { ...smallShape, queryHeads: 4, kvHeads: 2, headDim: 16, context: 160, tied: false };
const model = tinyModel(1, shape);
const path = writeFolder(join(folder, "model"), model);
const packedModel = packed(model);
const packedPath = writeFolder(join(folder, "packed"), packedModel);
const smaller = { ...shape, layers: 1, context: 96 };
const draftPath = writeFolder(join(folder, "draft"), tinyModel(21, smaller));

/** Of other ranks in each layer, so that parts lie at other places. */
const one = tinyAdapter(2, model, llamaTargets, { rank: 5 });
const two = tinyAdapter(3, model, ["q_proj", "o_proj", "down_proj"], { rank: 8, rslora: true });
const three = tinyAdapter(4, packedModel, packedTargets, { rank: 3 });
const adapters = {
  one: writeAdapter(join(folder, "one"), one),
  two: writeAdapter(join(folder, "two"), two),
};
const packedAdapters = { three: writeAdapter(join(folder, "three"), three) };

const prompts = [
  [3, 4, 5, 6, 7],
  [100, 5],
  [40, 41, 40, 41, 40, 41],
  Array.from({ length: 30 }, (_, i) => 7 + (i % 5)),
];
const requestOf = (tokens: readonly number[], adapter?: string) => {
  const sampling = { temperature: 0 };
  return { tokens, maxTokens: 12, ignoreEnd: true, sampling, ...(adapter && { adapter }) };
};
const oracle = (of: typeof model) => prompts.map((prompt) => naiveGreedy(of, prompt, 12));
const plain = oracle(model);
const adapted = { one: oracle(merged(model, one)), two: oracle(merged(model, two)) };
const packedAdapted: { tokens: number[] }[] = [];

beforeAll(async () => {
  await using engine = await Engine.load(packedPath, { adapters: packedAdapters });
  for (const prompt of prompts) {
    const tokens: number[] = [];
    for await (const { token } of engine.generate(requestOf(prompt, "three"))) tokens.push(token);
    packedAdapted.push({ tokens });
  }
});

test("no token is a close call: sums in another order move logits by less", () => {
  for (const answers of [plain, adapted.one, adapted.two])
    for (const { margin } of answers) expect(margin).toBeGreaterThan(1e-4);
});

const few = { pages: 40, pageSize: 4, tokenBudget: 16, maxBatch: 4 };
type Answers = readonly { readonly tokens: readonly number[] }[];
const tokensOf = (answers: Answers) => answers.map(({ tokens }) => [...tokens]);
const lookup = { method: "prompt-lookup", draftTokensMost: 4, ngramLeast: 1 };
const draft = { method: "draft", model: draftPath, draftTokensMost: 3 };
/** The model itself: what it drafts stands, and all ranks must take it. */
const right = { ...draft, model: path };
const mixed = [undefined, "one", "two"].flatMap((name) =>
  prompts.map((prompt) => requestOf(prompt, name)),
);
const mixedAnswers = [...plain, ...adapted.one, ...adapted.two];
/** What an engine has, its requests, and their tokens. */
const cases: [string, RanksJob, Answers][] = [
  ["adapters", { path, options: { ...few, adapters }, requests: mixed }, mixedAnswers],
  [
    "adapters of packed layers",
    {
      path: packedPath,
      options: { ...few, adapters: packedAdapters },
      requests: prompts.map((prompt) => requestOf(prompt, "three")),
    },
    packedAdapted,
  ],
  [
    "adapters and drafts",
    { path, options: { ...few, adapters, speculate: lookup }, requests: mixed },
    mixedAnswers,
  ],
  ...[lookup, draft, right, { ...right, branches: [2, 2] }].map(
    (speculate): [string, RanksJob, Answers] => [
      JSON.stringify(speculate),
      { path, options: { ...few, speculate }, requests: prompts.map((each) => requestOf(each)) },
      plain,
    ],
  ),
];

test.each([2, 4])(
  "%i ranks with adapters and drafts",
  async (tp) => {
    const split = [lookup, draft].map((speculate): (typeof cases)[0] => {
      const options = { ...few, adapters, speculate, dcp: tp };
      return ["keys on all ranks", { path, options, requests: mixed }, mixedAnswers];
    });
    const all = [...cases, ...split];
    const found = await askRanks(
      tp,
      all.map(([, job]) => job),
    );
    for (const [i, [name, { options }, answers]] of all.entries()) {
      expect([name, found[i].answers.map(({ tokens }) => tokens)]).toEqual([
        name,
        tokensOf(answers),
      ]);
      const drafts = (options as { speculate?: object }).speculate;
      if (drafts === lookup) expect(found[i].accepted).toBeGreaterThan(0);
      if (drafts === right) expect(found[i].accepted).toBeGreaterThan(20);
    }
  },
  seconds,
);

test(
  "what ranks do not take is refused",
  async () => {
    const foreign = tinyAdapter(5, tinyModel(3, { ...shape, queryHeads: 2, kvHeads: 1 }), [
      "q_proj",
    ]);
    const folderOf = { foreign: writeAdapter(join(folder, "foreign"), foreign) };
    const branches = { ...right, branches: [2, 2] };
    const said = await refusedByRanks(2, [
      { path, options: { ...few, adapters: folderOf } },
      { path, options: { ...few, speculate: branches, dcp: 2 } },
      { path, options: { ...few, deterministic: true } },
      { path, options: { ...few, adapters }, others: { adapters: {} } },
    ]);
    expect(said).toEqual([
      expect.stringMatching(/^CheckpointError: .*q_proj.* of \[32, 4\] is not what ranks share/),
      expect.stringMatching(/^OptionError: speculate.branches must be left out beside dcp/),
      expect.stringMatching(/^OptionError: tp must be left out beside deterministic/),
      expect.stringMatching(/^CommError: what is loaded of rank 1 differs from that of rank 0/),
    ]);
  },
  seconds,
);
