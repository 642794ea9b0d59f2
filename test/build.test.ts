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
    // Which fetches nothing, unlike the model of an answer.
    const job = ["demo", "--help"];
    const { code, stdout, stderr } = await runBun(["run", ...job], {
      cwd: clone,
      env,
    });
    expect(stderr).toContain("flashbun: installing npm packages");
    expect(stdout).toContain("Usage: flashbun demo");
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
