/** Ranks on GPUs, one each, by NCCL: where two real GPUs answer. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startRanks } from "../../src/cli/model/ranks.ts";
import { findLibrary } from "../../src/comm/libraries.ts";
import { openDriver } from "../../src/device/open.ts";
import type { RanksLeft } from "../support/ranks.ts";
import { root } from "../support/sources.ts";
import { emulatedLibrary } from "../support/targets.ts";
import { naiveGreedy, tinyModel, writeFolder } from "../support/tiny-llama.ts";

/** Real GPUs that ranks can have. */
function gpuCount(): number {
  try {
    const { emulated, deviceCount } = openDriver();
    return emulated || findLibrary("NCCL").path === undefined ? 0 : deviceCount;
  } catch {
    return 0;
  }
}

const gpus = process.env["FLASHBUN_TEST_DEVICE"] === "cuda" ? gpuCount() : 0;
const folder = mkdtempSync(join(tmpdir(), "flashbun-nccl-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Runs a program of the tests as ranks; what rank 0 prints goes to a file. */
async function run(ranks: number, program: string, argument: string): Promise<unknown> {
  const out = join(folder, "out.json");
  const shell = `exec "$0" "$@" > ${out}`;
  const child = join(root, "test", program);
  // Rank 0 alone has an output.
  const command = ["sh", "-c", `[ "$FLASHBUN_RANK" = 0 ] || exec "$0" "$@"; ${shell}`];
  const code = await startRanks([...command, process.execPath, child, argument], ranks, "cuda");
  expect(code).toBe(0);
  return await Bun.file(out).json();
}

/** A small model, and what it says. */
function small() {
  const sizes = { layers: 2, hidden: 64, intermediate: 96, queryHeads: 8, kvHeads: 2 };
  const model = tinyModel(3, { ...sizes, headDim: 16, context: 128, tied: false });
  const path = writeFolder(join(folder, "model"), model);
  const prompts = [
    [3, 4, 5, 6, 7],
    [3, 4, 5, 9],
    [100, 5],
  ];
  const known = prompts.map((prompt) => naiveGreedy(model, prompt, 8));
  // Rounding to f16 moves logits of this size by less.
  expect(Math.min(...known.map(({ margin }) => margin))).toBeGreaterThan(0.02);
  const requests = prompts.map((tokens) => {
    return { tokens, maxTokens: 8, ignoreEnd: true, sampling: { temperature: 0 } };
  });
  const options = { device: "cuda:0", dtype: "f16", tokenBudget: 6, maxBatch: 3 };
  return { path, expected: known.map(({ tokens }) => tokens), requests, options };
}

test.skipIf(gpus === 0)(
  "one GPU exchanges with itself, in graphs too",
  async () => {
    expect(await run(1, "comm/collectives.ts", "cuda")).toMatchObject({ found: "" });
  },
  100_000,
);

test.skipIf(gpus < 2)(
  "two GPUs exchange what they have",
  async () => {
    expect(await run(2, "comm/collectives.ts", "cuda")).toMatchObject({ found: "" });
  },
  100_000,
);

test.skipIf(gpus === 0)(
  "GPUs that share a model say what f64 arithmetic does",
  async () => {
    const { path, expected, requests, options } = small();
    for (const tp of gpus < 2 ? [1] : [1, 2]) {
      const job = JSON.stringify([{ path, tp, options, requests, aborts: {} }]);
      const [{ answers }] = (await run(tp, "engine/ranks.ts", job)) as RanksLeft[];
      expect(answers.map(({ tokens }) => tokens)).toEqual(expected);
    }
  },
  200_000,
);

describe.skipIf(gpus > 0)("an emulated GPU calls NCCL as it should", () => {
  const library = join(folder, "libnccl-alone.so");
  const environment = {
    FLASHBUN_LIBCUDA: emulatedLibrary,
    FLASHBUN_NCCL: library,
    FLASHBUN_RANK: "0",
    FLASHBUN_RANKS: "1",
  };

  beforeAll(async () => {
    const source = join(import.meta.dir, "nccl-alone.c");
    const flags = ["cc", "-shared", "-fPIC", "-O1", "-o", library, source];
    const child = Bun.spawn([process.env["FLASHBUN_ZIG"] ?? "zig", ...flags]);
    expect(await child.exited).toBe(0);
  }, 60_000);

  async function alone(program: string, argument: string, more = {}) {
    const path = join(root, "test", program);
    const child = Bun.spawn([process.execPath, path, argument], {
      stdout: "pipe",
      stderr: "pipe",
      env: { ...process.env, ...environment, ...more },
    });
    const [stdout, stderr] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    return { code: await child.exited, stdout, stderr };
  }

  test("every operation, and a graph of them", async () => {
    const { code, stdout, stderr } = await alone("comm/collectives.ts", "cuda");
    expect(stderr).toBe("");
    expect(JSON.parse(stdout)).toEqual({ library: "NCCL 2.28.9", found: "" });
    expect(code).toBe(0);
  }, 60_000);

  test("what fails is a CommError, with what NCCL says", async () => {
    const fails = await alone("comm/collectives.ts", "cuda", { FAKE_NCCL_FAILS: "5" });
    expect(fails.stderr).toMatch(
      /CommError: rank 0 of 1: NCCL: remote process exited \(6\) a rank is gone\. Fix: /,
    );
    const old = await alone("comm/collectives.ts", "cuda", { FAKE_NCCL_VERSION: "22705" });
    expect(old.stderr).toMatch(/CommError: .* is NCCL 2\.27, and 2\.28 or later is needed\. Fix: /);
    const waits = { FAKE_NCCL_WAITS: "1", FLASHBUN_COMM_SECONDS: "1" };
    const late = await alone("comm/collectives.ts", "cuda", waits);
    expect(late.stderr).toMatch(/CommError: another rank did not come within 1 s\. Fix: /);
    expect([fails.code, old.code, late.code]).toEqual([1, 1, 1]);
  }, 60_000);

  test("turns do not wait for the device's own stream, nor does it write over them", async () => {
    const { stdout, stderr } = await alone("engine/turns.ts", "", {
      FLASHBUN_EMULATOR: "order=greedy",
    });
    expect(stderr).toBe("");
    expect(JSON.parse(stdout)).toEqual([
      [2, 1],
      [500, 499],
    ]);
  }, 60_000);

  test("a model's all-reduces are in the graphs of its steps", async () => {
    const { path, expected, requests, options } = small();
    const job = JSON.stringify([{ path, tp: 1, options, requests, aborts: {} }]);
    const { stdout, stderr } = await alone("engine/ranks.ts", job);
    expect(stderr).toBe("");
    const [{ answers }] = JSON.parse(stdout) as RanksLeft[];
    expect(answers.map(({ tokens }) => tokens)).toEqual(expected);
  }, 200_000);
});
