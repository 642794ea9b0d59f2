/**
 * Runs the test files of the GPU on the emulated one under schedules other than the first come,
 * first served that `bun test` takes, and some of the tests on one of an older generation: greedy
 * and one random order, whose seed SEED=n names, or with FLASHBUN_DEEP=1 three.
 * FLASHBUN_EMULATOR and `bun run test:gpu` repeat one of them.
 *
 * Usage: bun scripts/test-schedules.ts [arguments of bun test]
 */
import { emulatedLibrary } from "../test/support/targets.ts";
import { testArguments } from "./arguments.ts";
import { fewTests, findGpu, gpuTests } from "./test-gpu.ts";
import { run } from "./toolchain.ts";

const first = Number(process.env["SEED"] ?? 1);
const seeds = process.env["FLASHBUN_DEEP"] === "1" ? [first, first + 1, first + 2] : [first];
const schedules = ["order=greedy", ...seeds.map((seed) => `order=random,seed=${seed}`)];
/** Turing: no cp.async, half as long products, no bf16. */
const older = "compute=75";

const given = testArguments("test:schedules");
process.env["FLASHBUN_LIBCUDA"] = emulatedLibrary;
const gpu = await findGpu();
if (gpu === undefined) {
  process.stderr.write("flashbun: no emulated GPU. Fix: bun run check builds it.\n");
  process.exit(1);
}
for (const schedule of [...schedules, older]) {
  process.env["FLASHBUN_EMULATOR"] = schedule;
  process.stderr.write(`flashbun: the GPU's tests under ${schedule}\n`);
  // What PTX's wrappers are tested for, an older GPU does not have.
  const paths = gpu.paths.filter((path) => schedule !== older || path !== "emulator/");
  const some = schedule === older ? ["-t", fewTests] : [];
  const tests = gpuTests({ ...gpu, paths }, "--only-failures", ...some, ...given);
  const code = await run(tests, true);
  if (code === 0) continue;
  const variables = `FLASHBUN_LIBCUDA=${emulatedLibrary} FLASHBUN_EMULATOR=${schedule}`;
  process.stderr.write(
    `flashbun: failed under ${schedule}; again: ${variables} bun run test:gpu\n`,
  );
  process.exit(code);
}
