/** docs/flashinfer.md: its program runs as it stands, and it names what the package exports. */
import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as flashbun from "../src/index.ts";
import theirs from "./flashinfer-names.json";
import { root } from "./support/sources.ts";

const page = readFileSync(join(root, "docs", "flashinfer.md"), "utf8");
const blocks = [...page.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map(([, code]) => code);

test("the program of the page runs as it stands", () => {
  const folder = mkdtempSync(join(tmpdir(), "flashbun-page-"));
  try {
    mkdirSync(join(folder, "node_modules"));
    symlinkSync(root, join(folder, "node_modules", "flashbun"));
    const path = join(folder, "program.ts");
    const values = "[...out.toFloat64Array(), ...latentOut.toFloat64Array()]";
    const last = `console.log(${values}.every(Number.isFinite));`;
    const code = blocks.join("\n").replace(/^await device\.stream\.done\(\);$/m, `$&\n${last}`);
    writeFileSync(path, code);
    const run = Bun.spawnSync([process.execPath, path], { cwd: folder });
    expect(run.stderr.toString()).toBe("");
    expect(run.stdout.toString()).toBe("true\n");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}, 60_000);

/** The cells of our side, and of theirs. */
const cells = page
  .split("\n")
  .filter((line) => /^\| [^-]/.test(line))
  .map((line) => line.split(" | ").map((cell) => cell.replace(/^\| |\s*\|$/g, "").trim()));

test("our names are exported, and every row has a counterpart or a reason", () => {
  const ours = cells.map(([, cell]) => cell);
  expect(ours.length).toBeGreaterThan(50);
  expect(ours.filter((cell) => cell === undefined || cell === "" || cell === "none")).toEqual([]);
  const called = ours.flatMap((cell) => [...cell.matchAll(/(?<![.\w])(\w+)\(/g)]);
  const classes = ours.flatMap((cell) => [...cell.matchAll(/`([A-Z][a-zA-Z]+)`/g)]);
  const names = [...called, ...classes].map(([, name]) => name);
  expect(names.length).toBeGreaterThan(15);
  expect(names.filter((name) => !(name in flashbun))).toEqual([]);
  for (const [, name] of page.matchAll(/`variants\.(\w+)`/g))
    expect(flashbun.variants).toHaveProperty(name);
});

test("every public name of theirs is on the page", () => {
  const whole = new Set([...page.matchAll(/`(\w+)`/g)].map(([, name]) => name));
  const starts = [...page.matchAll(/`(\w+)\*(\w*)`/g)].map(([, start, end]) => ({ start, end }));
  const isSaid = (name: string) =>
    whole.has(name) ||
    starts.some(({ start, end }) => name.startsWith(start) && name.endsWith(end));
  const names = Object.values(theirs.modules).flat();
  expect(names.length).toBeGreaterThan(150);
  expect(names.filter((name) => !isSaid(name))).toEqual([]);
  // A pattern that no name has any more is out of date, and so is a pattern of everything.
  expect(starts.filter(({ start }) => !names.some((name) => name.startsWith(start)))).toEqual([]);
  expect(starts.filter(({ start }) => start.length < 4)).toEqual([]);
});
