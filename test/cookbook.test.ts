import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "./support/sources.ts";
import { writeTinyBert } from "./support/tiny-bert.ts";
import { tinyModel, writeFolder } from "./support/tiny-llama.ts";
import { llamaTargets, tinyAdapter, writeAdapter } from "./support/tiny-lora.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-cookbook-"));
afterAll(() => rmSync(folder, { recursive: true }));
mkdirSync(join(folder, "node_modules"));
symlinkSync(root, join(folder, "node_modules", "flashbun"));
symlinkSync(join(root, "node_modules", "openai"), join(folder, "node_modules", "openai"));
const shape = { layers: 1, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const model = tinyModel(1, { ...shape, context: 128, tied: true });
writeFolder(join(folder, "models", "base"), model);
for (const [seed, name] of ["legal", "poetry", "medical"].entries())
  writeAdapter(join(folder, "adapters", name), tinyAdapter(seed, model, llamaTargets));

writeTinyBert(join(folder, "models", "encoder"));
const questions = Array.from({ length: 40 }, (_, id) =>
  JSON.stringify({ id, question: `${id} + 1?` }),
);
writeFileSync(join(folder, "questions.jsonl"), questions.join("\n"));

const page = readFileSync(join(root, "docs", "cookbook.md"), "utf8");
/** By recipe, its program. */
const programs = page
  .split("\n## ")
  .slice(1)
  .map((recipe) => [recipe.split("\n")[0], /^```ts\n(.*?)^```/ms.exec(recipe)![1]] as const);

/** What a recipe's program prints last. */
const lastLines: Readonly<Record<string, RegExp>> = {
  "Many tenants, one model: adapters": /^legal, medical$/,
  "A server and a client in one program": /^[1-9]\d* prompt tokens$/,
  "Answers that a program reads": /^string true$/,
  "Texts into classes": /^true$/,
  "A file of questions, overnight": /^40 answers, prompts found cached: true$/,
  "The best of several answers": /^best of 4$/,
  "Search by meaning": /^bread at home$/,
  "Whoever leaves costs nothing": /^0 requests are left$/,
  "Edits of a text in fewer steps": /^\d+ of [1-9]\d* drafted tokens stood$/,
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
