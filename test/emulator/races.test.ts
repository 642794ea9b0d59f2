import { describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { raceDetector, reportsIn, watchedIn } from "../support/races.ts";
import { runBun } from "../support/run.ts";
import { emulatedLibrary } from "../support/targets.ts";

const runner = join(import.meta.dir, "run-races.ts");
const skipped =
  !existsSync(emulatedLibrary) ||
  !existsSync(raceDetector) ||
  process.env["FLASHBUN_EMULATOR"] !== undefined;

/** What the race detector reports of a kernel without one of its parts. */
async function reportOf(less: number): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "flashbun-races-"));
  try {
    const { code, stderr } = await runBun([runner, `${less}`], { env: watchedIn(folder) });
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    return reportsIn(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

describe.skipIf(skipped)("the race detector", () => {
  test("says nothing of a kernel that waits", async () => {
    expect(await reportOf(0)).toBe("");
  });

  test.each([
    ["a barrier", 1],
    ["a fence of the asynchronous proxy", 2],
    ["a wait before memory is written that a store reads", 3],
  ])("misses %s", async (_, less) => {
    expect(await reportOf(less)).toContain("data race");
  });
});
