import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
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

const isSetUp = existsSync(join(root, ".toolchain", "library.stamp"));

test.skipIf(!isSetUp)("a second start does nothing twice and needs no network", async () => {
  // Nothing that could fetch or build is on the PATH.
  const env = { PATH: "/nowhere", npm_config_registry: "", HTTP_PROXY: "", HTTPS_PROXY: "" };
  const { code, stdout, stderr } = await runBun(["scripts/setup.ts", "build"], { cwd: root, env });
  expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: "", stderr: "" });
});

test("an unknown command of the set-up is refused", async () => {
  const { code, stderr } = await runBun(["scripts/setup.ts", "fly"], { cwd: root });
  expect(code).toBe(2);
  expect(stderr).toContain("unknown command fly");
});
