import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Encoder, Engine } from "../../src/engine/index.ts";
import { openCheckpoint } from "../../src/weights/open.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";

const shape = { layers: 1, hidden: 8, intermediate: 8, queryHeads: 1, kvHeads: 1, headDim: 8 };
const variables = ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"] as const;
const before = Object.fromEntries(variables.map((name) => [name, process.env[name]]));
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "flashbun-hub-"));
  for (const name of variables) delete process.env[name];
});

afterEach(() => {
  for (const name of variables)
    if (before[name] === undefined) delete process.env[name];
    else process.env[name] = before[name];
  rmSync(folder, { recursive: true });
});

/** A model in a hub's cache, as Hugging Face's programs lay it out. */
function cached(hub: string): string {
  const at = join(hub, "models--some-org--Tiny-0.1B");
  mkdirSync(join(at, "refs"), { recursive: true });
  writeFileSync(join(at, "refs", "main"), "0123abcd");
  const snapshot = join(at, "snapshots", "0123abcd");
  mkdirSync(snapshot, { recursive: true });
  return writeFolder(snapshot, tinyModel(1, { ...shape, context: 32, tied: true }));
}

test.each([
  ["HF_HUB_CACHE", ""],
  ["HF_HOME", "hub"],
  ["XDG_CACHE_HOME", "huggingface/hub"],
] as const)("a name is looked for where %s says", (variable, below) => {
  process.env[variable] = folder;
  const path = cached(join(folder, below));
  expect(openCheckpoint("some-org/Tiny-0.1B").path).toBe(path);
});

test("by its name a model pools and is called as by its path", async () => {
  process.env["HF_HUB_CACHE"] = folder;
  const path = cached(folder);
  mkdirSync(join(path, "1_Pooling"));
  const byMean = JSON.stringify({ pooling_mode_mean_tokens: true });
  writeFileSync(join(path, "1_Pooling", "config.json"), byMean);
  const name = "some-org/Tiny-0.1B";
  const vectors = [];
  for (const at of [path, name]) {
    await using encoder = await Encoder.load(at);
    vectors.push(await encoder.embed([[1, 2, 3]]));
  }
  expect(vectors[1]).toEqual(vectors[0]);
  await using engine = await Engine.load(name);
  expect(engine.summary()).toMatch(/^Tiny-0\.1B on /);
});

test("a model that was not fetched is named with what fetches it", () => {
  process.env["HF_HUB_CACHE"] = folder;
  const missing =
    /some-org\/other: there is no such file, nor .* Fix: .*hf download some-org\/other/;
  expect(() => openCheckpoint("some-org/other")).toThrow(missing);
  cached(folder);
  rmSync(join(folder, "models--some-org--Tiny-0.1B", "snapshots", "0123abcd"), { recursive: true });
  expect(() => openCheckpoint("some-org/Tiny-0.1B")).toThrow(/there is no such file/);
  // A path is no name: what is wrong with it is said as ever.
  expect(() => openCheckpoint("../absent/tiny")).toThrow(/cannot be read \(ENOENT\)/);
});
