import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sweep } from "../support/deep.ts";
import { runBun } from "../support/run.ts";
import { gpuTarget } from "../support/targets.ts";

test("right arguments are taken, but for files and commands that are not there", async () => {
  const program = join(import.meta.dir, "fuzz.ts");
  const { stdout, stderr } = await runBun([program, "right"]);
  expect(stderr).toBe("");
  const refused = stdout.split("\n");
  expect(refused.filter((line) => !/none(\.so|-such)/.test(line))).toEqual([]);
  expect(refused.map((line) => line.split(":")[0])).toEqual([
    "inspectLibrary",
    "traceCommand",
    "runShrunk",
    "autoRun",
    "slimTree",
    "restoreTree",
    "restoreFile",
    "shrinkLibrary",
    "verifyLibrary",
  ]);
});

test("an option that is not there is refused, but by what has a reason", async () => {
  const program = join(import.meta.dir, "fuzz.ts");
  const { stdout, stderr } = await runBun([program, "misspelt"]);
  expect(stderr).toBe("");
  expect(stdout.split("\n")).toEqual([
    // An environment has other variables.
    "ranksOf, argument 0",
    // Names are looked at in a layer's first step alone.
    "PagedCache#append, argument 0",
    // A plan is proved by what it was made with, as it is.
    "checkPlan, argument 2",
  ]);
});

/** Bytes that a run may hold at its peak: no call's work grows with a number that it was given. */
const memoryMost = 2 ** 31;

async function fuzz(seed: number, calls: number, kind: string): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "flashbun-fuzz-"));
  try {
    const log = join(folder, "log");
    const program = join(import.meta.dir, "fuzz.ts");
    const { code, stdout, stderr } = await runBun([program, `${seed}`, `${calls}`, log, kind]);
    const last = readFileSync(log, "utf8").trimEnd().split("\n").at(-1);
    const crash = `exit code ${code} after ${last}\n${stderr}`;
    expect(code > 1 ? crash : stdout.replace(/, peak .*/s, "")).toBe(`${calls} calls, 0 failed`);
    expect(Number(/peak (\d+)/.exec(stdout)![1])).toBeLessThan(memoryMost);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const title = "odd arguments give a value or a typed error";
sweep(title, { slice: 3000, whole: 10_000 }, (seed, calls) => fuzz(seed, calls, "cpu"));
if (gpuTarget() !== undefined)
  sweep(`${title} on cuda:0`, { slice: 500, whole: 5000 }, (seed, calls) =>
    fuzz(seed, calls, "cuda:0"),
  );
