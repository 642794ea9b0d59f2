import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  Engine,
  type EngineOptions,
  type GenerateOptions,
  type SpeculateOptions,
} from "../../src/engine/index.ts";
import { ApiServer } from "../../src/server/index.ts";
import {
  type Answer,
  answerOf,
  expectNoLeaks,
  expectSame,
  partlyRight,
} from "../support/answers.ts";
import { sweep } from "../support/deep.ts";
import { type Random, seeded } from "../support/random.ts";
import { tinyModel, vocabularySize, writeFolder } from "../support/tiny-llama.ts";
import { llamaTargets, tinyAdapter, writeAdapter } from "../support/tiny-lora.ts";

const shape = { layers: 2, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const folder = mkdtempSync(join(tmpdir(), "flashbun-speculate-with-"));
const model = tinyModel(9, { ...shape, context: 160, tied: false });
const path = writeFolder(join(folder, "model"), model);
const template = "{% for m in messages %}<user>{{ m.content }}{% endfor %}";
writeFileSync(join(path, "tokenizer_config.json"), JSON.stringify({ chat_template: template }));
const other = tinyModel(21, { ...shape, layers: 1, context: 120, tied: true });
const otherPath = writeFolder(join(folder, "other"), other);
const adapters = Object.fromEntries(
  [2, 3].map((seed) => {
    const adapter = tinyAdapter(seed, model, llamaTargets, { rank: 2 + seed });
    return [`adapter ${seed}`, writeAdapter(join(folder, `adapter ${seed}`), adapter)];
  }),
);
const schema = {
  type: "object",
  properties: { city: { type: "string", maxLength: 4 }, days: { type: "integer" } },
  required: ["city"],
} as const;

const drafters: Record<string, SpeculateOptions> = {
  "prompt lookup": { method: "prompt-lookup", ngramLeast: 1 },
  "a chain": { method: "draft", model: otherPath, draftTokensMost: 3 },
  "a tree": { method: "draft", model: otherPath, draftTokensMost: 3, branches: [2, 2] },
};
let plain: Engine;

beforeAll(async () => {
  plain = await Engine.load(path, { adapters });
});

afterAll(async () => {
  await plain[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

/** Of one prompt each time a few: n samples, in JSON or free, some through an adapter. */
function requestsOf(random: Random, first: number): GenerateOptions[] {
  const shared = Array.from({ length: 6 * random.integer(0, 4) }, (_, i) => (7 * i) % 200);
  const own = Array.from({ length: random.integer(1, 9) }, () =>
    random.integer(0, vocabularySize - 3),
  );
  const adapter = random.pick([undefined, ...Object.keys(adapters)]);
  const isJson = random.chance(0.3);
  const temperature = random.pick([0.7, 1, 1.5]);
  const request = {
    tokens: [...shared, ...own],
    maxTokens: random.integer(1, 30),
    ignoreEnd: random.chance(0.5),
    ...(adapter !== undefined && { adapter }),
    ...(isJson && { json: schema }),
    ...(random.chance(0.3) && { stop: [random.pick(["a", "e", "0", " "])] }),
  };
  return Array.from({ length: random.integer(1, 4) }, (_, sample) => ({
    ...request,
    sampling: { temperature, seed: first + sample },
  }));
}

/** Reads so many pieces at most, then leaves. */
async function begunOf(engine: Engine, options: GenerateOptions, pieces: number): Promise<Answer> {
  const begun: Answer = { pieces: [], end: [] };
  for await (const piece of engine.generate(options)) {
    begun.pieces.push(piece);
    if (begun.pieces.length >= pieces) break;
  }
  return begun;
}

const sizes: EngineOptions[] = [{}, { tokenBudget: 24, maxBatch: 8 }, { pages: 60, pageSize: 4 }];

for (const [name, speculate] of Object.entries(drafters))
  sweep(
    `n, JSON, adapters and who leaves, with drafts by ${name}`,
    { slice: 3, whole: 40 },
    async (seed, cases) => {
      const sums = { drafted: 0, accepted: 0, left: 0, json: 0, adapted: 0 };
      for (let i = 0; i < cases; i++) {
        const random = seeded(seed + i);
        const options = { ...random.pick(sizes), adapters, speculate };
        await using engine = await Engine.load(path, options);
        const requests: GenerateOptions[] = [];
        while (requests.length < 24) requests.push(...requestsOf(random, requests.length));
        const expected = await Promise.all(requests.map((each) => answerOf(plain, each)));
        const ids = expected.map(({ pieces }) => pieces.map(({ token }) => token));
        if (random.chance(0.7)) partlyRight(random, engine.drafter!, new Map(ids.entries()), 0.7);
        const leaves = requests.map((_, at) =>
          random.chance(0.25) ? random.integer(1, Math.max(1, ids[at].length - 1)) : Infinity,
        );
        const answers = await Promise.all(
          requests.map((each, at) =>
            leaves[at] === Infinity ? answerOf(engine, each) : begunOf(engine, each, leaves[at]),
          ),
        );
        const cut = expected.map(({ pieces, end }, at) =>
          leaves[at] === Infinity
            ? { pieces, end }
            : { pieces: pieces.slice(0, leaves[at]), end: [] },
        );
        expectSame(answers, cut, seed + i);
        // Those that left go with the step under way.
        while (engine.stats().requests > 0) await Bun.sleep(1);
        expectNoLeaks(engine);
        const { draftedTokens, acceptedTokens } = engine.stats();
        sums.drafted += draftedTokens;
        sums.accepted += acceptedTokens;
        sums.left += leaves.filter((pieces) => pieces !== Infinity).length;
        sums.json += requests.filter(({ json }) => json !== undefined).length;
        sums.adapted += requests.filter(({ adapter }) => adapter !== undefined).length;
      }
      for (const [what, sum] of Object.entries(sums)) expect([what, sum > 5]).toEqual([what, true]);
    },
  );

test("n choices of the server are those without drafts, through adapters and in JSON", async () => {
  const ask = async (engine: Engine) => {
    const server = new ApiServer(engine, { model: "tiny", port: 0 });
    const format = { type: "json_schema", json_schema: { name: "place", schema } };
    const bodies = ["tiny", "adapter 2"].flatMap((served) =>
      [undefined, format].map((response_format) => ({
        model: served,
        messages: [{ role: "user", content: "0a1b0a1b0a1b" }],
        max_tokens: 24,
        n: 5,
        seed: 3,
        temperature: 1,
        response_format,
      })),
    );
    try {
      return await Promise.all(
        bodies.map(async (body) => {
          const init = { method: "POST", body: JSON.stringify(body) };
          const response = await fetch(`${server.url}/v1/chat/completions`, init);
          const { choices, usage } = (await response.json()) as { choices: unknown; usage: object };
          return { status: response.status, choices, usage };
        }),
      );
    } finally {
      await server.stop(0);
    }
  };
  const expected = await ask(plain);
  expect(expected.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
  for (const speculate of Object.values(drafters)) {
    await using engine = await Engine.load(path, { adapters, speculate });
    expect(await ask(engine)).toEqual(expected);
    expect(engine.stats().draftedTokens).toBeGreaterThan(0);
    expectNoLeaks(engine);
  }
});
