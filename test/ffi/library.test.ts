import { expect, test } from "bun:test";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runBun } from "../support/run.ts";
import { root } from "../support/zig.ts";

const open = `
  const { Device } = await import("${join(root, "src/index.ts")}");
  try {
    await Device.open("cpu");
  } catch (error) {
    process.stdout.write(error.name + ": " + error.message);
  }
`;

test("a missing library is a LibraryError that lists what was tried", async () => {
  const env = { FLASHBUN_LIB: "/nowhere/libflashbun.so" };
  const { stdout } = await runBun(["-e", open], { env });
  expect(stdout).toStartWith("LibraryError:");
  expect(stdout).toContain("FLASHBUN_LIB=/nowhere/libflashbun.so");
  expect(stdout).toContain("Fix:");
});

test("a file that is no library is a LibraryError", async () => {
  const path = join(mkdtempSync(join(tmpdir(), "flashbun-")), "libflashbun.so");
  writeFileSync(path, "not an ELF file");
  const { stdout } = await runBun(["-e", open], { env: { FLASHBUN_LIB: path } });
  expect(stdout).toStartWith(`LibraryError: cannot load ${path}`);
});

test("a library of another version is a LibraryError", async () => {
  // Every other symbol is there: the real library serves all but the version.
  const folder = mkdtempSync(join(tmpdir(), "flashbun-"));
  const source = join(folder, "version.zig");
  const path = join(folder, "libflashbun.so");
  const { symbols } = await import("../../src/ffi/symbols.ts");
  const functions = Object.keys(symbols).map((name) => `export fn ${name}() i32 { return 999; }\n`);
  writeFileSync(source, functions.join(""));
  const zig = process.env["FLASHBUN_ZIG"] ?? join(root, ".toolchain", "zig", "ziglang", "zig");
  const built = Bun.spawnSync([zig, "build-lib", "-dynamic", `-femit-bin=${path}`, source]);
  expect(built.stderr.toString()).toBe("");
  const { stdout } = await runBun(["-e", open], { env: { FLASHBUN_LIB: path } });
  expect(stdout).toStartWith("LibraryError:");
  expect(stdout).toContain("speaks ABI version 999");
}, 60_000);

test("importing the package opens nothing", async () => {
  const script = `
    import { readFileSync } from "node:fs";
    await import("${join(root, "src/index.ts")}");
    const maps = readFileSync("/proc/self/maps", "utf8");
    const loaded = Object.keys(require.cache).some((path) => path.includes("typebox"));
    process.stdout.write(JSON.stringify({ library: maps.includes("libflashbun"), loaded }));
  `;
  const { stdout } = await runBun(["-e", script]);
  expect(JSON.parse(stdout)).toEqual({ library: false, loaded: false });
});
