/**
 * Brings a fresh clone to where a command can run, then runs it: npm packages from the lock file,
 * the pinned Zig, the native library. Nothing is done twice: a stamp of the inputs says what
 * stands.
 *
 * Usage: bun scripts/setup.ts [build | test | check | check-cuda | demo | bench] [its arguments]
 */
import { existsSync, globSync, statSync } from "node:fs";
import { join } from "node:path";
import {
  findCudaLibrary,
  findNvcc,
  findZig,
  hash,
  must,
  once,
  read,
  root,
  run,
} from "./toolchain.ts";

const commands = ["build", "test", "check", "check-cuda", "demo", "bench"];
const library = join(root, "zig-out", "lib", "libflashbun.so");
const emulator = join(root, "zig-out", "lib", "libcuda-emulated.so");
const raceDetector = join(root, "zig-out", "lib", "librace-detector.so");
const withImages = join(root, "zig-out", "cuda");
const bunTest = [process.execPath, "test", "--timeout", "300000"];

/** A hash over names and times of files. */
function stampOf(patterns: string[]): string {
  const sources = globSync([...patterns, "build.zig", "toolchain.zon"], { cwd: root }).sort();
  return hash(...sources.map((path) => `${path} ${statSync(join(root, path)).mtimeMs}`));
}

/** Brings all up; true when packages were installed, which this process then cannot import. */
async function setup(): Promise<boolean> {
  const packages = hash(read("bun.lock"), read("package.json"), process.versions.bun ?? "");
  let installed = false;
  await once("packages", packages, existsSync(join(root, "node_modules")), async () => {
    installed = true;
    await must(
      "installing npm packages",
      [process.execPath, "install", "--frozen-lockfile"],
      "check that the npm registry can be reached.",
    );
  });
  const sources = ["zig/*.zig", "zig/{cpu,cuda,trace}/**/*.zig", "kernels/params/*.h"];
  await once("library", stampOf(sources), existsSync(library), async () => {
    const zig = await findZig();
    await must(
      "building the native library (two to four minutes the first time)",
      [zig, "build"],
      "read the compiler's message above.",
    );
  });
  return installed;
}

/** The same start once more in a fresh process; it ends a Ctrl-C, and this one waits for it. */
async function startAgain(): Promise<number> {
  const command = [process.execPath, import.meta.path, ...process.argv.slice(2)];
  const child = Bun.spawn(command, { cwd: root, stdio: ["inherit", "inherit", "inherit"] });
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => child.kill(signal));
  return await child.exited;
}

/** Brings what tests stand on: the emulated GPU, its race detector, a library of NVIDIA's. */
async function prepareTests(): Promise<string> {
  const zig = await findZig();
  await once("emulator", stampOf(["zig/emulator/*"]), existsSync(emulator), () =>
    must(
      "building the emulated GPU (a minute the first time)",
      [zig, "build", "emulator"],
      "read the compiler's message above.",
    ),
  );
  await once("races", stampOf(["zig/emulator/race_*"]), existsSync(raceDetector), () =>
    must(
      "building the race detector (a minute the first time)",
      [zig, "build", "races"],
      "read the compiler's message above.",
    ),
  );
  await findCudaLibrary();
  process.env["FLASHBUN_ZIG"] = zig;
  return zig;
}

/** Format, types, tests of TypeScript and Zig, those of the GPU under several schedules. */
async function check(): Promise<number> {
  const zig = await prepareTests();
  return inTurn([
    ["format", [process.execPath, "run", "fmt", "--check"]],
    ["types", [process.execPath, "check", "--no-script"]],
    ["Zig tests", [zig, "build", "test"]],
    ["tests", [...bunTest, ...rest]],
    ["the GPU's tests in other orders", [process.execPath, "scripts/test-schedules.ts"]],
    ["races between a GPU's threads", [process.execPath, "scripts/test-races.ts"]],
  ]);
}

/** Whatever of the CUDA kernels needs a compiler and no GPU. */
async function checkCuda(): Promise<number> {
  const zig = await findZig();
  await findNvcc();
  process.env["FLASHBUN_LIB"] = join(withImages, "lib", "libflashbun.so");
  const build = [zig, "build", "-Dcuda=true", `-Dbun=${process.execPath}`, "--prefix", withImages];
  const test = [...bunTest, ...rest];
  const binaries = ["matrix", "linked", "real-library"].map(
    (name) => `test/debloat/${name}.test.ts`,
  );
  return inTurn([
    ["kernels by nvcc, embedded in the library", build],
    ["kernels", [...test, "./test/jit/matrix.check.ts"]],
    ["fat binaries of nvcc", [...test, ...binaries]],
  ]);
}

/** Runs named steps; the first failure decides the exit code. */
async function inTurn(steps: [string, string[]][]): Promise<number> {
  for (const [name, command] of steps) {
    process.stderr.write(`flashbun: ${name}\n`);
    const code = await run(command, true);
    if (code !== 0) {
      process.stderr.write(`flashbun: ${name} failed (exit code ${code})\n`);
      return code;
    }
  }
  return 0;
}

const [command = "build", ...rest] = process.argv.slice(2);
if (!commands.includes(command)) {
  const list = commands.join(", ");
  process.stderr.write(`flashbun: unknown command ${command}; use one of ${list}\n`);
  process.exit(2);
}
const installed = await setup();
if (command === "check") {
  process.exitCode = await check();
} else if (command === "test") {
  await prepareTests();
  process.exitCode = await run([...bunTest, ...rest], true);
} else if (command === "check-cuda") {
  process.exitCode = await checkCuda();
} else if (installed && command !== "build") {
  // Bun remembers of a folder that was not there that nothing is in it.
  process.exitCode = await startAgain();
} else if (command === "demo") {
  process.argv.splice(2, process.argv.length, "replay", ...rest);
  await import("../src/cli/main.ts");
} else if (command === "bench") {
  process.argv.splice(2, process.argv.length, ...rest);
  await import("../bench/run.ts");
}
