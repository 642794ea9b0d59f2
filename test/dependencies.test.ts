import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./support/sources.ts";

test("docs/dependencies.md names every package with its licence, and no other", async () => {
  const { dependencies, devDependencies } = await Bun.file(join(root, "package.json")).json();
  const names = Object.keys({ ...dependencies, ...devDependencies });
  const licences = names.map((name) => {
    const path = join(root, "node_modules", name, "package.json");
    return [name, (JSON.parse(readFileSync(path, "utf8")) as { license: string }).license];
  });
  const page = readFileSync(join(root, "docs", "dependencies.md"), "utf8");
  const rows = [...page.matchAll(/^\| `([^`]+)` +\| ([\w.-]+) +\|/gm)].map(([, ...row]) => row);
  expect(rows.sort()).toEqual(licences.sort());
});
