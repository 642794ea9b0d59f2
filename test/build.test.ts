import { expect, test } from "bun:test";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { libraryPath } from "../src/ffi/library.ts";
import { runBun } from "./support/run.ts";
import { root, zigBuild } from "./support/zig.ts";

test("the library cross-builds for aarch64", async () => {
  const prefix = mkdtempSync(join(tmpdir(), "flashbun-"));
  const { code, stderr } = await zigBuild("-Dtarget=aarch64-linux-gnu.2.28", "--prefix", prefix);
  expect(stderr).toBe("");
  expect(code).toBe(0);
  const elf = readFileSync(join(prefix, "lib", "libflashbun.so"));
  const aarch64 = 183;
  expect(elf.readUInt16LE(18)).toBe(aarch64);
});

test("the build lists its steps", async () => {
  const { stdout } = await zigBuild("--list-steps");
  for (const step of ["install", "test", "abi", "fmt", "emulator"])
    expect(stdout).toContain(`  ${step} `);
});

/** Those that write, build or fetch whatever they are asked. */
const scripts = ["abi", "fmt", "graph", "images", "setup", "sources", "types", "variants-page"];

test.each([...scripts, "vocabularies"])(
  "scripts/%s.ts does nothing if asked for help",
  async (name) => {
    const cwd = mkdtempSync(join(tmpdir(), "flashbun-"));
    const script = join(root, "scripts", `${name}.ts`);
    const { code, stdout, stderr } = await runBun([script, "--help"], { cwd });
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toStartWith("usage: bun ");
    expect(readdirSync(cwd)).toEqual([]);
    rmSync(cwd, { recursive: true });
  },
);

test.each([
  ["images", "--tabel"],
  ["images", "blob --table"],
  ["fmt", "--check --fix"],
  ["abi", "--check"],
])("scripts/%s.ts refuses %s", async (name, words) => {
  const script = join(root, "scripts", `${name}.ts`);
  const { code, stderr } = await runBun([script, ...words.split(" ")]);
  expect(code).toBe(2);
  expect(stderr).toStartWith(`flashbun: wrong arguments: ${words}\nusage: bun `);
});

test.each([
  [
    "scripts/test.ts",
    "--timeot 5",
    /^flashbun: unknown option --timeot\. Fix: there are .*--timeout/,
  ],
  ["scripts/check-deep.ts", "-t --x -z", /^flashbun: unknown option -z\. Fix: there are .*-t,/],
  [
    "bench/serving/run.ts",
    "--onyl x",
    /^bench:serving: unknown option '--onyl'.* there are --only/,
  ],
  ["bench/ranks/serving.ts", "--tp 1", /^bench:ranks: .*must be an integer from 2 to 64\. Fix: /],
])("%s %s is refused in a line that names what there is", async (path, words, sentence) => {
  const { code, stdout, stderr } = await runBun([join(root, path), ...words.split(" ")]);
  expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
  expect(stderr).toMatch(sentence);
  expect(stderr.trimEnd()).not.toContain("\n");
});

const isSetUp = existsSync(join(root, ".toolchain", "library.stamp"));

test.skipIf(!isSetUp)("a second start does nothing twice and needs no network", async () => {
  // Nothing that could fetch or build is on the PATH.
  const env = { PATH: "/nowhere", npm_config_registry: "", HTTP_PROXY: "", HTTPS_PROXY: "" };
  const { code, stdout, stderr } = await runBun(["scripts/setup.ts"], { cwd: root, env });
  expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: "", stderr: "" });
});

test("the first start of a clone reaches its job", async () => {
  const clone = mkdtempSync(join(tmpdir(), "flashbun-clone-"));
  try {
    const names = ["package.json", "bun.lock", "bunfig.toml", "build.zig", "toolchain.zon"];
    for (const name of [...names, "scripts", "src", "platforms"])
      cpSync(join(root, name), join(clone, name), { recursive: true });
    // Stands for the right Zig on the PATH: it builds by copying.
    const zig = join(clone, "bin", "zig");
    const pins = readFileSync(join(clone, "toolchain.zon"), "utf8");
    const version = /\.ziglang = "(.+)"/.exec(pins)![1];
    const build = `mkdir -p zig-out/lib && cp "${libraryPath()}" zig-out/lib/libflashbun.so`;
    mkdirSync(join(clone, "bin"));
    writeFileSync(zig, `#!/bin/sh\n[ "$1" = version ] && echo ${version} && exit\n${build}\n`);
    chmodSync(zig, 0o755);
    const env = { PATH: `${join(clone, "bin")}:${process.env["PATH"]}`, FLASHBUN_LIB: undefined };
    const start = (...words: string[]) => runBun(["run", ...words], { cwd: clone, env });
    // What only asks is answered before anything is built.
    const help = await start("demo", "--help");
    expect(help.stderr).toContain("flashbun: installing npm packages");
    expect(help.stderr).not.toContain("building");
    expect(help.stdout).toContain("Usage: flashbun demo");
    const wrong = await start("demo", "--max-token", "5");
    expect(wrong.stderr).not.toContain("building");
    expect(wrong.stderr).toContain("flashbun: unknown option '--max-token'");
    expect([help.code, wrong.code]).toEqual([0, 2]);
    const { code, stderr } = await start("build");
    expect(stderr).toContain("flashbun: building the native library");
    expect(existsSync(join(clone, "zig-out", "lib", "libflashbun.so"))).toBe(true);
    expect(code).toBe(0);
  } finally {
    rmSync(clone, { recursive: true, force: true });
  }
});

test("an argument of the set-up is refused", async () => {
  const { code, stderr } = await runBun(["scripts/setup.ts", "fly"], { cwd: root });
  expect(code).toBe(2);
  expect(stderr).toContain("wrong arguments: fly");
});
