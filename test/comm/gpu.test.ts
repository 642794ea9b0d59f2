/** Ranks on GPUs, one each, by NCCL: where two real GPUs answer. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startRanks } from "../../src/cli/model/ranks.ts";
import { findLibrary } from "../../src/comm/libraries.ts";
import { openDriver } from "../../src/device/open.ts";
import { root } from "../support/sources.ts";
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
    const sizes = { layers: 2, hidden: 64, intermediate: 96, queryHeads: 8, kvHeads: 2 };
    const model = tinyModel(3, { ...sizes, headDim: 16, context: 128, tied: false });
    const path = writeFolder(join(folder, "model"), model);
    const prompts = [
      [3, 4, 5, 6, 7],
      [3, 4, 5, 9],
      [100, 5],
    ];
    const expected = prompts.map((prompt) => naiveGreedy(model, prompt, 8));
    // Rounding to f16 moves logits of this size by less.
    expect(Math.min(...expected.map(({ margin }) => margin))).toBeGreaterThan(0.02);
    const requests = prompts.map((tokens) => {
      return { tokens, maxTokens: 8, ignoreEnd: true, sampling: { temperature: 0 } };
    });
    const options = { device: "cuda:0", dtype: "f16", tokenBudget: 6, maxBatch: 3 };
    for (const tp of gpus < 2 ? [1] : [1, 2]) {
      const job = JSON.stringify({ path, tp, options, requests, aborts: {} });
      const { answers } = (await run(tp, "engine/ranks.ts", job)) as {
        answers: { tokens: number[] }[];
      };
      expect(answers.map(({ tokens }) => tokens)).toEqual(expected.map(({ tokens }) => tokens));
    }
  },
  200_000,
);
