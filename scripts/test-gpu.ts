/**
 * Runs the test files of the GPU on the one that is here, real or emulated, and says first which.
 *
 * Usage: bun scripts/test-gpu.ts [arguments of bun test]
 */
import { join } from "node:path";
import { gpuTarget } from "../test/support/targets.ts";
import { testArguments } from "./arguments.ts";
import { run, toolchain } from "./toolchain.ts";

/** The GPU that tests run on; processes that are started later open the same one. */
export interface Gpu {
  /** Its name, and the CUDA version of its driver. */
  readonly name: string;
  readonly emulated: boolean;
  /** Folders and files of test/ whose tests it runs. */
  readonly paths: readonly string[];
}

/** Tests of the PTX wrappers; those beside them are of the emulator itself. */
const conformance = ["clusters", "copies", "matrices", "threads", "values", "wgmma"].map(
  (name) => `emulator/${name}.test.ts`,
);

/** The GPU that is here, if any. */
export async function findGpu(): Promise<Gpu | undefined> {
  process.env["FLASHBUN_TEST_DEVICE"] = "cuda";
  const target = gpuTarget();
  if (target === undefined) return undefined;
  // Tests that call the driver themselves take the emulated one where no other is named.
  process.env["FLASHBUN_LIBCUDA"] ||= "libcuda.so.1";
  process.env["FLASHBUN_ZIG"] ||= Bun.which("zig") ?? join(toolchain, "zig", "ziglang", "zig");
  await using device = await target.open(1);
  const { driverVersion, emulated, computeMajor, computeMinor } = device.properties;
  const version = `${Math.floor(driverVersion / 1000)}.${Math.floor((driverVersion % 1000) / 10)}`;
  const paths = ["device/", "tensor/", "ops/", "cache/", "attention/"];
  // The conformance tests of the PTX wrappers hold instructions that only Hopper has.
  if (computeMajor === 9 && computeMinor === 0)
    paths.push(...(emulated === 0 ? conformance : ["emulator/"]));
  const name = `${device.name}, driver of CUDA ${version}`;
  return { name, emulated: emulated !== 0, paths };
}

/** Some of the tests, by name: for each path of the kernels a batch of few rows. */
export const fewTests = [
  "in every dtype",
  "strided copies",
  "gathered by index",
  "into the whole",
  "page size (5|16)$",
  "ragged, ",
  "group 5$",
  "head dim (64|256|576)$",
  "value dim 128",
  "f16 queries, f8e4m3 KV",
  "(sinks|mask over the tail|rope|token scales, f8e4m3)$",
  "a long row among",
  "more warps: one is cut$",
  "^short requests on a GPU", // in a process of more processors, with those cases that match
  "^(threads|matrices|copies|clusters|values|wgmma) ",
  "tensor maps",
  "without clusters",
  "rows without a number",
  "no mass, end with",
].join("|");

/** The command that runs a GPU's test files. */
export function gpuTests({ paths }: Gpu, ...args: readonly string[]): string[] {
  const files = paths.map((path) => `./test/${path}`);
  return [process.execPath, "test", "--timeout", "600000", ...files, ...args];
}

if (import.meta.main) {
  const given = testArguments("test:gpu");
  const gpu = await findGpu();
  if (gpu === undefined) {
    const fix = "bun run check builds the emulated one.";
    process.stderr.write(`flashbun: no GPU answers, real or emulated. Fix: ${fix}\n`);
    process.exit(1);
  }
  const kind = gpu.emulated ? "the emulated GPU" : "a real GPU";
  process.stderr.write(`flashbun: tests on ${kind}: ${gpu.name}\n`);
  process.exitCode = await run(gpuTests(gpu, ...given), true);
}
