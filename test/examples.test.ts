import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { root } from "./support/sources.ts";

const lastLines: Record<string, RegExp> = {
  "decode.ts": /^step 4: 104 and 11 tokens, first output -?\d\.\d{4}$/,
  "decoder.ts": /^24 of 24 tokens are those of a full recompute$/,
  "port.ts": /^lengths 39, 26, 61, 22 in 11 pages, output -?\d\.\d{4}$/,
  "shared-prefix.ts": /^8 of 8 lookups hit$/,
  "tree-draft.ts": /^the sequence now holds 53 tokens$/,
  "variant.ts": /^1 new tokens: 6\.8 % of all pairs were planned$/,
};

test("every example has a line to end with", () => {
  const programs = readdirSync(join(root, "examples")).filter((name) => name.endsWith(".ts"));
  expect(programs.sort()).toEqual(Object.keys(lastLines));
});

test.each(Object.entries(lastLines))("%s runs", (name, lastLine) => {
  const run = Bun.spawnSync([process.execPath, join("examples", name)], { cwd: root });
  expect(run.stderr.toString()).toBe("");
  expect(run.exitCode).toBe(0);
  expect(run.stdout.toString().trim().split("\n").at(-1)).toMatch(lastLine);
});
