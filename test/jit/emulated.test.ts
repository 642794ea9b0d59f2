import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { CompileError } from "../../src/errors.ts";
import { compile, compileSync } from "../../src/jit/compile.ts";
import { emulatedCompiler } from "../../src/jit/emulated.ts";
import { expand } from "../../src/jit/specialization.ts";
import { root } from "../support/sources.ts";

const hasZig =
  process.env["FLASHBUN_ZIG"] !== undefined ||
  existsSync(join(root, ".toolchain", "zig", "ziglang", "zig"));
const request = { source: "probe/probe.cu", constants: {} };

describe.skipIf(!hasZig)("the compiler for the emulated GPU", () => {
  test("makes a shared object that holds the kernels", async () => {
    const text = expand(request);
    const images = [
      await compile(request, text, "emulated"),
      compileSync(request, text, "emulated"),
    ];
    for (const image of images.map((bytes) => Buffer.from(bytes))) {
      expect([...image.subarray(0, 4)]).toEqual([0x7f, 0x45, 0x4c, 0x46]);
      for (const name of ["probe_spin", "probe_read", "probe_fma"])
        expect(image.includes(`fb_kernel_${name}\0`)).toBe(true);
    }
  });

  test("fails with the file, the line and the log", async () => {
    const wrong = `${expand(request)}\n#line 7 "probe/probe.cu"\nint x = nothing;\n`;
    const error = await compile(request, wrong, "emulated").catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(CompileError);
    const { message, log } = error as CompileError;
    expect(message).toStartWith("probe/probe.cu for emulated did not compile: zig c++ exited with");
    expect(log).toContain("probe/probe.cu:7:9: error: use of undeclared identifier 'nothing'");
    expect(() => compileSync(request, wrong, "emulated")).toThrow(message);
  });
});

test("its name holds flags and headers, and is the same within a process", () => {
  expect(emulatedCompiler()).toMatch(/^host-[0-9a-f]{64}$/);
  expect(emulatedCompiler()).toBe(emulatedCompiler());
});
