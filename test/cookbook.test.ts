import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "./support/sources.ts";
import { tinyModel, writeFolder } from "./support/tiny-llama.ts";
import { llamaTargets, tinyAdapter, writeAdapter } from "./support/tiny-lora.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-cookbook-"));
afterAll(() => rmSync(folder, { recursive: true }));
mkdirSync(join(folder, "node_modules"));
symlinkSync(root, join(folder, "node_modules", "flashbun"));
const shape = { layers: 1, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const model = tinyModel(1, { ...shape, context: 128, tied: true });
writeFolder(join(folder, "models", "base"), model);
for (const [seed, name] of ["legal", "poetry", "medical"].entries())
  writeAdapter(join(folder, "adapters", name), tinyAdapter(seed, model, llamaTargets));

const page = readFileSync(join(root, "docs", "cookbook.md"), "utf8");
/** By recipe, its program. */
const programs = page
  .split("\n## ")
  .slice(1)
  .map((recipe) => [recipe.split("\n")[0], /^```ts\n(.*?)^```/ms.exec(recipe)![1]] as const);

/** What a recipe's program prints last. */
const lastLines: Readonly<Record<string, RegExp>> = {
  "Many tenants, one model: adapters": /^legal, medical$/,
};

test("every recipe has a line to end with", () => {
  expect(programs.map(([title]) => title)).toEqual(Object.keys(lastLines));
});

test.each(programs)("%s", (title, program) => {
  const path = join(folder, "program.ts");
  writeFileSync(path, program);
  const run = Bun.spawnSync([process.execPath, path], { cwd: folder });
  expect(run.stderr.toString()).toBe("");
  expect(run.exitCode).toBe(0);
  expect(run.stdout.toString().trim().split("\n").at(-1)).toMatch(lastLines[title]);
});
