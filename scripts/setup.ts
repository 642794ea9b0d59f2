/**
 * Brings a fresh clone to where a command can run: npm packages from the lock file, the pinned Zig,
 * the native library. Nothing is done twice: a stamp of the inputs says what is there. With
 * `packages` only those, for programs that build the rest once they know their arguments.
 *
 * Usage: bun scripts/setup.ts [packages]
 */
import { existsSync, globSync, statSync } from "node:fs";
import { join } from "node:path";
import { argumentsOf } from "./arguments.ts";
import { findCudaLibrary, findZig, hash, must, once, read, root } from "./toolchain.ts";

const library = join(root, "zig-out", "lib", "libflashbun.so");
const emulator = join(root, "zig-out", "lib", "libcuda-emulated.so");
const raceDetector = join(root, "zig-out", "lib", "librace-detector.so");

/** A hash over names and times of files. */
function stampOf(patterns: string[]): string {
  const sources = globSync([...patterns, "build.zig", "toolchain.zon"], { cwd: root }).sort();
  return hash(...sources.map((path) => `${path} ${statSync(join(root, path)).mtimeMs}`));
}

/**
 * The npm packages. A process in which they were installed cannot import them: Bun remembers that
 * the folder was empty.
 */
export async function installPackages(): Promise<void> {
  const packages = hash(read("bun.lock"), read("package.json"), process.versions.bun ?? "");
  await once("packages", packages, existsSync(join(root, "node_modules")), () =>
    must(
      "installing npm packages",
      [process.execPath, "install", "--frozen-lockfile"],
      "check that the npm registry can be reached.",
    ),
  );
}

/** The npm packages and the native library. */
export async function setup(): Promise<void> {
  await installPackages();
  const sources = ["zig/*.zig", "zig/{cpu,cuda,trace}/**/*.zig", "kernels/params/*.h"];
  await once("library", stampOf(sources), existsSync(library), async () => {
    const zig = await findZig();
    await must(
      "building the native library (two to four minutes the first time)",
      [zig, "build"],
      "read the compiler's message above.",
    );
  });
}

/** Brings what tests need besides; returns the path of Zig. */
export async function prepareTests(): Promise<string> {
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

if (import.meta.main) {
  const [only] = argumentsOf(
    "bun run setup [packages]",
    (given) => given.length === 0 || given.join() === "packages",
  );
  await (only === undefined ? setup() : installPackages());
}
