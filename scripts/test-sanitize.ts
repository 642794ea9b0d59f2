/**
 * Runs some tests of a real GPU under compute-sanitizer, one run a tool. Without the one or the
 * other it says so and is content.
 *
 * Usage: bun scripts/test-sanitize.ts [memcheck | racecheck | synccheck | initcheck] ...
 *
 * All tools by default: accesses outside of allocations; hazards in shared memory, copies in flight
 * included; barriers that not all reach; reads of global memory that was never written. Every
 * launch is hundreds of times slower than usual, so that the tests are a selection: each kernel and
 * layout, batches of a few rows. Calls that the driver refuses are no findings, since tests ask for
 * them.
 */
import { accessSync, constants, globSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { argumentsOf } from "./arguments.ts";
import { fewTests, findGpu, gpuTests } from "./test-gpu.ts";
import { run, toolchain } from "./toolchain.ts";

const tools: Readonly<Record<string, readonly string[]>> = {
  memcheck: ["--report-api-errors", "no", "--padding", "256"],
  // It knows no mbarriers, by which the warps of these wait for each other: a row of queries that
  // cp.async wrote and ldmatrix reads is a hazard to it. ThreadSanitizer watches them (test:races).
  racecheck: ["attention_hopper", "attention_mla"].flatMap((name) => [
    "--kernel-name-exclude",
    `kernel_substring=${name}`,
  ]),
  synccheck: [],
  // Bytes that are copied without having been written are the padding of structs.
  initcheck: ["--check-api-memory-access", "no"],
};

/**
 * Tests that a tool is wrong about, by the start of their names. racecheck takes a read before
 * bar.arrive and a write after the bar.sync that it completes for a hazard; PTX says that arrivals
 * order reads as well (barrier: "prior memory accesses ... are performed").
 */
const mistaken: Readonly<Record<string, string>> = {
  racecheck: "threads meet at named barriers",
};

const findings = 86;

/** Where an executable compute-sanitizer lies, or the places without one. */
function findSanitizer(): { found: string | undefined; places: string[] } {
  const { CUDA_HOME, VIRTUAL_ENV } = process.env;
  const packages = "lib/python3*/{site,dist}-packages/nvidia/cu13/compute-sanitizer";
  const prefixes = [VIRTUAL_ENV, join(homedir(), ".local"), "/usr/local", "/usr"];
  const places = [
    join(toolchain, "cuda", "nvidia", "cu13", "compute-sanitizer"),
    ...(CUDA_HOME ? [join(CUDA_HOME, "bin")] : []),
    "/usr/local/cuda*/bin",
    ...prefixes.filter((prefix) => prefix).map((prefix) => join(prefix!, packages)),
  ];
  const files = places.flatMap((place) => globSync(join(place, "compute-sanitizer")));
  const found = Bun.which("compute-sanitizer") ?? files.find(isExecutable);
  return { found, places: ["PATH", ...places] };
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

async function main(wanted: readonly string[]): Promise<number> {
  const { found, places } = findSanitizer();
  if (found === undefined) {
    const get = "pip install nvidia-cuda-sanitizer-api has it";
    return skip(`there is no compute-sanitizer in ${places.join(", ")} (${get})`);
  }
  const gpu = await findGpu();
  if (gpu === undefined) return skip("no GPU answers");
  if (gpu.emulated) return skip("the only GPU is emulated, which looks for such faults itself");
  process.env["FLASHBUN_TEST_CASES"] = fewTests;
  for (const tool of wanted.length > 0 ? wanted : Object.keys(tools)) {
    process.stderr.write(`flashbun: ${tool} on ${gpu.name}\n`);
    const options = ["--tool", tool, ...tools[tool], "--print-limit", "20"];
    // Bun starts what compiles kernels, and that loads them once.
    options.push("--target-processes", "all", "--error-exitcode", `${findings}`);
    const names = mistaken[tool] ? `^(?!${mistaken[tool]}).*(?:${fewTests})` : fewTests;
    const tests = gpuTests(gpu, "--only-failures", "-t", names);
    const code = await run([found, ...options, ...tests], true);
    if (code === 0) continue;
    const why = code === findings ? "has findings" : `failed (exit code ${code})`;
    process.stderr.write(`flashbun: ${tool} ${why}\n`);
    return code;
  }
  return 0;
}

function skip(why: string): number {
  process.stdout.write(`skipped: ${why}\n`);
  return 0;
}

const usage = `bun run test:sanitize [${Object.keys(tools).join(" | ")}] ...`;
const given = argumentsOf(usage, (words) => words.every((word) => Object.hasOwn(tools, word)));
process.exitCode = await main(given);
