import { beforeAll, expect, test } from "bun:test";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runBun } from "../support/run.ts";
import { root } from "../support/zig.ts";

/** A driver that answers as the environment says, and has nothing else. */
const source = `
  const std = @import("std");
  fn number(variable: [*:0]const u8) c_int {
    const text = std.c.getenv(variable) orelse return 0;
    return std.fmt.parseInt(c_int, std.mem.span(text), 10) catch 0;
  }
  fn version(out: *c_int) callconv(.c) c_int { out.* = number("STUB_VERSION"); return 0; }
  fn init(_: c_uint) callconv(.c) c_int { return number("STUB_INIT"); }
  fn count(out: *c_int) callconv(.c) c_int { out.* = number("STUB_DEVICES"); return 0; }
  fn name(_: c_int, out: *[*:0]const u8) callconv(.c) c_int {
    out.* = "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH";
    return 0;
  }
  fn other() callconv(.c) c_int { return 1; }
  export fn cuGetProcAddress_v2(
    symbol: [*:0]const u8, out: *?*const anyopaque, _: c_int, _: u64, _: *c_int,
  ) c_int {
    const wanted = std.mem.span(symbol);
    const missing = std.c.getenv("STUB_MISSING") orelse "";
    if (std.mem.eql(u8, wanted, std.mem.span(missing))) return 500;
    out.* = if (std.mem.eql(u8, wanted, "cuDriverGetVersion")) &version
      else if (std.mem.eql(u8, wanted, "cuInit")) &init
      else if (std.mem.eql(u8, wanted, "cuDeviceGetCount")) &count
      else if (std.mem.startsWith(u8, wanted, "cuGetError")) &name
      else &other;
    return 0;
  }
`;

const folder = mkdtempSync(join(tmpdir(), "flashbun-"));
const stub = join(folder, "libcuda-stub.so");

beforeAll(() => {
  const path = join(folder, "stub.zig");
  writeFileSync(path, source);
  const zig = process.env["FLASHBUN_ZIG"] ?? join(root, ".toolchain", "zig", "ziglang", "zig");
  const built = Bun.spawnSync([zig, "build-lib", "-dynamic", "-lc", `-femit-bin=${stub}`, path]);
  expect(built.stderr.toString()).toBe("");
}, 60_000);

/** What opening the driver says in a process of its own. */
async function opening(env: Record<string, string>): Promise<string> {
  const script = `
    const { openDriver } = await import("${join(root, "src/device/open.ts")}");
    try { process.stdout.write(JSON.stringify(openDriver())); }
    catch (error) {
      process.stdout.write(error.name + (error.absent ? " (absent): " : ": ") + error.message);
    }
  `;
  const { stdout } = await runBun(["-e", script], { env: { FLASHBUN_LIBCUDA: stub, ...env } });
  return stdout;
}

const good = { STUB_VERSION: "13000", STUB_DEVICES: "2" };

test("a driver that answers says its version and devices", async () => {
  expect(JSON.parse(await opening(good))).toEqual({
    version: "13.0",
    deviceCount: 2,
    emulated: false,
  });
});

/** What a machine without a GPU shows, which is no fault of its driver. */
const absent: readonly string[] = ["no driver", "no device", "no device at its start"];

for (const [what, env, sentences] of [
  ["no driver", { FLASHBUN_LIBCUDA: "/nowhere/libcuda.so.1" }, ["was not found", "12.4 or later"]],
  ["a file that is none", { FLASHBUN_LIBCUDA: import.meta.path }, ["cannot be opened"]],
  ["another library", { FLASHBUN_LIBCUDA: "libc.so.6" }, ["libc.so.6 is no CUDA driver"]],
  ["too old a driver", { ...good, STUB_VERSION: "12020" }, ["speaks CUDA 12.2, 12.4 or later"]],
  ["no device", { ...good, STUB_DEVICES: "0" }, ["the driver has no device", "CUDA 13.0"]],
  ["no device at its start", { ...good, STUB_INIT: "100" }, ["the driver has no device"]],
  ["a mismatch", { ...good, STUB_INIT: "803" }, ["CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"]],
  ["a function that lacks", { ...good, STUB_MISSING: "cuLibraryLoadData" }, ["cuLibraryLoadData"]],
] as const) {
  test(`${what}: a DriverError that says what was found and needed`, async () => {
    const said = await opening(env);
    expect(said).toStartWith(absent.includes(what) ? "DriverError (absent):" : "DriverError:");
    for (const sentence of sentences) expect(said).toContain(sentence);
  });
}

test("a failed attempt leaves nothing behind; a second driver is refused", async () => {
  const script = `
    const { openDriver } = await import("${join(root, "src/device/open.ts")}");
    const said = [];
    for (const path of ["/nowhere/libcuda.so.1", ${JSON.stringify(stub)}, "libcuda.so.1"]) {
      process.env.FLASHBUN_LIBCUDA = path;
      try { said.push(openDriver().version); } catch (error) { said.push(error.message); }
    }
    process.stdout.write(JSON.stringify(said));
  `;
  const { stdout } = await runBun(["-e", script], { env: good });
  const [first, second, third] = JSON.parse(stdout);
  expect(first).toContain("was not found");
  expect(second).toBe("13.0");
  expect(third).toContain("a process opens one driver");
});
