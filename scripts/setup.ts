/**
 * Brings a fresh clone to where a command can run, then runs it: npm packages from the lock file,
 * the pinned Zig, the native library. Nothing is done twice: a stamp of the inputs says what
 * stands.
 *
 * Usage: bun scripts/setup.ts [demo | check | bench | build] [arguments of the command]
 */
import { createHash } from "node:crypto";
import {
  existsSync,
  globSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dir, "..");
const toolchain = join(root, ".toolchain");
const library = join(root, "zig-out", "lib", "libflashbun.so");
const zigVersion = /zig_version = "(.+)"/.exec(read("build.zig"))![1]!;

function read(path: string): string {
  return readFileSync(join(root, path), "utf8");
}

function hash(...parts: string[]): string {
  const digest = createHash("sha256");
  for (const part of parts) digest.update(part).update("\0");
  return digest.digest("hex");
}

/** Runs one step unless its stamp says that it stands already. */
async function once(name: string, stamp: string, stands: boolean, step: () => Promise<void>) {
  const path = join(toolchain, `${name}.stamp`);
  if (stands && existsSync(path) && readFileSync(path, "utf8") === stamp) return;
  await step();
  mkdirSync(toolchain, { recursive: true });
  writeFileSync(path, stamp);
}

/** Runs a program; its output is shown only when `loud` or when it fails. */
async function run(command: string[], loud = false, cwd = root): Promise<number> {
  const child = Bun.spawn(command, {
    cwd,
    stdin: "inherit",
    stdout: loud ? "inherit" : "pipe",
    stderr: loud ? "inherit" : "pipe",
    env: { ...process.env, PATH: `${join(process.execPath, "..")}:${process.env["PATH"]}` },
  });
  const texts = loud
    ? []
    : await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  const code = await child.exited;
  if (code !== 0 && !loud) process.stderr.write(texts.join(""));
  return code;
}

async function must(what: string, command: string[], fix: string): Promise<void> {
  const started = performance.now();
  process.stderr.write(`flashbun: ${what}\n`);
  const ticker = setInterval(() => {
    const seconds = ((performance.now() - started) / 1000).toFixed(0);
    process.stderr.write(`flashbun: ${what} ... ${seconds} s\n`);
  }, 30_000);
  const code = await run(command).finally(() => clearInterval(ticker));
  if (code === 0) return;
  process.stderr.write(`flashbun: failed (${command[0]} exited with ${code}). Fix: ${fix}\n`);
  process.exit(1);
}

/** The right Zig from the PATH, else the pinned one from PyPI's `ziglang` package. */
async function findZig(): Promise<string> {
  const onPath = Bun.which("zig");
  if (onPath !== null && (await version(onPath)) === zigVersion) return onPath;
  const fetched = join(toolchain, "zig", "ziglang", "zig");
  await once("zig", zigVersion, existsSync(fetched), async () => {
    const wheels = join(toolchain, "wheels");
    rmSync(join(toolchain, "zig"), { recursive: true, force: true });
    const python = Bun.which("python3") ?? "python3";
    await must(
      `fetching Zig ${zigVersion} (100 MB, once)`,
      [
        python,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
      ].concat(["--only-binary=:all:", "--dest", wheels, `ziglang==${zigVersion}`]),
      `install Python 3 with pip, or put Zig ${zigVersion} on the PATH.`,
    );
    const wheel = globSync("ziglang-*.whl", { cwd: wheels })[0]!;
    const unpack = "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2])";
    await must(
      "unpacking Zig",
      [python, "-c", unpack, join(wheels, wheel), join(toolchain, "zig")],
      "free some disk space (600 MB).",
    );
    await run(["chmod", "+x", fetched]);
    rmSync(wheels, { recursive: true, force: true });
  });
  return fetched;
}

async function version(zig: string): Promise<string> {
  const child = Bun.spawn([zig, "version"], { stdout: "pipe", stderr: "ignore" });
  return (await new Response(child.stdout).text()).trim();
}

function nativeStamp(): string {
  const sources = globSync(["zig/**/*.zig", "kernels/**/*.h", "build.zig"], { cwd: root }).sort();
  return hash(...sources.map((path) => `${path} ${statSync(join(root, path)).mtimeMs}`));
}

async function setup(): Promise<void> {
  const packages = hash(read("bun.lock"), read("package.json"), process.versions.bun ?? "");
  await once("packages", packages, existsSync(join(root, "node_modules")), () =>
    must(
      "installing npm packages",
      [process.execPath, "install", "--frozen-lockfile"],
      "check that the npm registry can be reached.",
    ),
  );
  await once("library", nativeStamp(), existsSync(library), async () => {
    const zig = await findZig();
    await must(
      "building the native library (two to four minutes the first time)",
      [zig, "build"],
      "read the compiler's message above.",
    );
  });
}

/** Format, types, tests of TypeScript and Zig; the first failure decides the exit code. */
async function check(): Promise<number> {
  const zig = await findZig();
  const folders = ["src", "test", "bench", "scripts", "examples"];
  const steps: [string, string[]][] = [
    ["format (TypeScript)", [process.execPath, "fmt", "--check", ...folders]],
    ["format (Zig)", [zig, "build", "fmt"]],
    ["types", [process.execPath, "check", "--no-script"]],
    ["Zig tests", [zig, "build", "test"]],
    ["tests", [process.execPath, "test", "--timeout", "300000", ...process.argv.slice(3)]],
  ];
  process.env["FLASHBUN_ZIG"] = zig;
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
if (!["build", "check", "demo", "bench"].includes(command)) {
  process.stderr.write(`flashbun: unknown command ${command}; use demo, check, bench or build\n`);
  process.exit(2);
}
await setup();
if (command === "check") {
  process.exitCode = await check();
} else if (command === "demo") {
  process.argv.splice(2, process.argv.length, "replay", ...rest);
  await import("../src/cli/main.ts");
} else if (command === "bench") {
  process.argv.splice(2, process.argv.length, ...rest);
  await import("../bench/run.ts");
}
