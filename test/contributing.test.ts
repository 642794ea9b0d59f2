import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { root, sourcesOf } from "./support/sources.ts";

const text = readFileSync(join(root, "CONTRIBUTING.md"), "utf8");

/** Every `path/to/something` in a text, without command lines. */
function pathsIn(part: string): string[] {
  return [...part.matchAll(/`([\w.-]+(?:\/[\w.-]+)+)`/g)].map(([, path]) => path);
}

test("every path in CONTRIBUTING.md is there", () => {
  const doors = ["engine", "server", "debloat"].map((door) => `flashbun/${door}`);
  const elsewhere = ["docs/api", "docs/api/index.html", ...doors];
  const missing = pathsIn(text).filter((path) => !existsSync(join(root, path)));
  expect(missing.filter((path) => !elsewhere.includes(path))).toEqual([]);
});

test("every script that it names is in package.json", async () => {
  const { scripts } = (await Bun.file(join(root, "package.json")).json()) as { scripts: object };
  const named = [...text.matchAll(/\bbun run ([a-z][\w:-]*)/g)].map(([, name]) => name);
  expect(named.filter((name) => !(name in scripts))).toEqual([]);
});

describe("the files to touch are those of the example", () => {
  const command = /^ {4}git grep -lE(i?) '(.+)' -- (.+)$/m;
  const recipes = text
    .split(/^### /m)
    .slice(1)
    .filter((recipe) => command.test(recipe));
  test.each(recipes.map((recipe): [string, string] => [recipe.split("\n")[0], recipe]))(
    "%s",
    (_, recipe) => {
      const [, flags, pattern, folders] = command.exec(recipe)!;
      const example = new RegExp(pattern, flags);
      const globs = folders.split(" ").map((folder) => `${folder}/**/*`);
      const files = sourcesOf(...globs).filter((source) => example.test(source.text));
      const table = recipe.split("\n").filter((line) => line.startsWith("| `"));
      const listed = table.flatMap((line) => pathsIn(line.split("|")[1]));
      expect(listed.sort()).toEqual(files.map(({ path }) => path).sort());
    },
  );
});
