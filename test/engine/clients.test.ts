import { afterAll, expect } from "bun:test";
import { mkdtempSync, readdirSync, readlinkSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine, type GenerateOptions } from "../../src/engine/index.ts";
import { sweep } from "../support/deep.ts";
import { type Random, seeded } from "../support/random.ts";
import { tinyModel, vocabularySize, writeFolder } from "../support/tiny-llama.ts";
import { llamaTargets, tinyAdapter, writeAdapter } from "../support/tiny-lora.ts";

const shape = { layers: 1, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const folder = realpathSync(mkdtempSync(join(tmpdir(), "flashbun-clients-")));
afterAll(() => rmSync(folder, { recursive: true }));
const model = tinyModel(9, { ...shape, context: 96, tied: false });
const path = writeFolder(folder, model);
const adapters = {
  a: writeAdapter(join(folder, "a"), tinyAdapter(1, model, llamaTargets)),
  b: writeAdapter(join(folder, "b"), tinyAdapter(2, model, ["q_proj", "down_proj"], { rank: 9 })),
};

/** What a client does with its request. */
interface Client {
  readonly options: GenerateOptions;
  /** Leaves after so many tokens. */
  readonly leavesAfter: number;
}

/** Prompts of which many begin alike; some clients leave, some ask for what they cannot have. */
function clientOf(random: Random): Client {
  const system = random.integer(0, 3);
  const start = Array.from({ length: 5 * system }, (_, i) => (7 * i + system) % 200);
  const own = Array.from({ length: random.integer(1, 20) }, () =>
    random.integer(0, vocabularySize - 3),
  );
  const sampling = random.chance(0.5)
    ? { temperature: 0 }
    : { temperature: 1, topP: 0.9, seed: random.integer(0, 1000), presencePenalty: 0.5 };
  return {
    options: {
      tokens: [...start, ...own],
      maxTokens: random.integer(1, 20),
      ignoreEnd: true,
      sampling,
      ...(random.chance(0.5) && { adapter: random.pick(["a", "b"]) }),
    },
    leavesAfter: random.chance(0.2) ? random.integer(0, 6) : Infinity,
  };
}

/** Tokens of a request that was read to its end; undefined where it was left or failed. */
async function read(engine: Engine, { options, leavesAfter }: Client, failures: Set<string>) {
  const tokens: number[] = [];
  try {
    for await (const { token } of engine.generate(options)) {
      tokens.push(token);
      if (tokens.length > leavesAfter) return undefined;
    }
  } catch (error) {
    failures.add((error as Error).message);
    return undefined;
  }
  return tokens;
}

/** The model's and adapters' files that are open: other tests share the process and open others. */
function openFiles(): string[] {
  const targets = readdirSync("/proc/self/fd").map((descriptor) => {
    try {
      return readlinkSync(`/proc/self/fd/${descriptor}`);
    } catch {
      return ""; // Closed since: the listing's own.
    }
  });
  return targets.filter((target) => target.startsWith(folder)).sort();
}

sweep(
  "64 clients with and without adapters, some of which leave; few pages, launches that fail",
  { slice: 300, whole: 5000 },
  async (seed, requests) => {
    const random = seeded(seed);
    const clients = Array.from({ length: requests }, () => clientOf(random));
    await using alone = await Engine.load(path, { maxBatch: 1, adapters });
    const sizes = { pages: 30, pageSize: 4, tokenBudget: 48, maxBatch: 16, adapters };
    await using engine = await Engine.load(path, sizes);
    const { model } = engine;
    const forward = model.forward.bind(model);
    let launches = 0;
    model.forward = (...step) => {
      if (++launches % 97 === 0) throw new Error("injected");
      forward(...step);
    };
    const failures = new Set<string>();
    // What the first request opens stays open.
    await read(engine, clients[0], failures);
    const files = openFiles();
    const answers: (number[] | undefined)[] = [];
    let next = 0;
    const work = async () => {
      while (next < clients.length) {
        const i = next++;
        answers[i] = await read(engine, clients[i], failures);
      }
    };
    await Promise.all(Array.from({ length: 64 }, work));
    expect([...failures]).toEqual(["injected"]);
    const { requests: left, preemptions, cachedTokens } = engine.stats();
    expect(left).toBe(0);
    expect(preemptions).toBeGreaterThan(0);
    expect(cachedTokens).toBeGreaterThan(0);
    expect(openFiles()).toEqual(files);
    // Every page is free or kept for prompts to come.
    const [pages] = engine.model.cache.pool.groups;
    expect(engine.stats().pagesUsed + pages.allocator.freeCount).toBe(sizes.pages);
    const finished = answers.filter((tokens) => tokens !== undefined).length;
    expect(finished).toBeGreaterThan(requests / 2);
    for (const [i, tokens] of answers.entries()) {
      if (tokens === undefined) continue;
      expect(await read(alone, clients[i], failures), `request ${i}`).toEqual(tokens);
    }
  },
);
