/**
 * Runs some tests of the GPU on the emulated one with ThreadSanitizer watching the kernels.
 *
 * Usage: bun scripts/test-races.ts [arguments of bun test]
 */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { raceDetector, reportsIn, watchedIn } from "../test/support/races.ts";
import { emulatedLibrary } from "../test/support/targets.ts";
import { testArguments } from "./arguments.ts";
import { fewTests, findGpu, gpuTests } from "./test-gpu.ts";
import { run } from "./toolchain.ts";

const given = testArguments("test:races");
process.env["FLASHBUN_LIBCUDA"] = emulatedLibrary;
const gpu = existsSync(raceDetector) ? await findGpu() : undefined;
if (gpu === undefined) {
  const what = "there is no emulated GPU, or no race detector";
  process.stderr.write(`flashbun: ${what}. Fix: bun run check builds both.\n`);
  process.exit(1);
}
for (const order of ["order=greedy", "order=random,seed=1"]) {
  process.stderr.write(`flashbun: races under ${order}\n`);
  const folder = mkdtempSync(join(tmpdir(), "flashbun-races-"));
  try {
    Object.assign(process.env, watchedIn(folder, order), { FLASHBUN_TEST_CASES: fewTests });
    const tests = gpuTests(gpu, "--only-failures", "-t", fewTests, ...given);
    const code = await run(tests, true);
    const reports = reportsIn(folder);
    process.stderr.write(reports);
    if (code !== 0 || reports !== "") process.exitCode = 1;
  } finally {
    rmSync(folder, { recursive: true });
  }
}
