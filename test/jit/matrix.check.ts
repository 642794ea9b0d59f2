/** What `bun run check:cuda` looks at: it needs nvcc and the library that embeds the matrix. */
import { beforeAll, describe, expect, test } from "bun:test";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { compileMatrix, resourcesPage } from "../../scripts/images.ts";
import { architectures, matrixOf } from "../../scripts/matrix.ts";
import { type Compiled, compileWithNvcc } from "../../scripts/nvcc.ts";
import { findNvcc } from "../../scripts/toolchain.ts";
import { libraryPath } from "../../src/ffi/library.ts";
import { compile } from "../../src/jit/compile.ts";
import { embeddedImages } from "../../src/jit/embedded.ts";
import { imageNow } from "../../src/jit/image.ts";
import { findNvrtc, pinnedVersion } from "../../src/jit/nvrtc.ts";
import { expand } from "../../src/jit/specialization.ts";
import { targetOf } from "../../src/jit/target.ts";
import { root } from "../support/sources.ts";

/** A count that is compared with the upper end of its clamp. */
const clampSource = `extern "C" __global__ void clamp(int n, int* out, int start) {
    const int count = max(min(n - start - int(threadIdx.x), 4), 0);
    #pragma unroll 1
    for (int i = 0; i < n; i++) {
        out[i] += count == 4 ? count : out[i + count];
        if (count == 4) out[i + 7] = 3;
    }
}
`;

let compiled: Compiled[];

beforeAll(async () => {
  compiled = await compileMatrix();
});

describe("the matrix", () => {
  test("is embedded whole", () => {
    const hashes = compiled.map(({ hash }) => hash);
    expect([...embeddedImages().keys()].sort()).toEqual(hashes.sort());
    const entries = architectures.flatMap(matrixOf);
    expect(new Set(hashes).size).toBe(entries.length);
  });

  test("is found without a compiler by every device that runs it", () => {
    const capabilities: [number, number, string][] = [
      [7, 5, "sm_75"],
      [8, 0, "sm_80"],
      [8, 6, "sm_80"],
      [8, 9, "sm_80"],
      [9, 0, "sm_90a"],
    ];
    for (const [major, minor, architecture] of capabilities) {
      const matrix = matrixOf(architecture);
      const origins = matrix.map((entry) => {
        const image = imageNow(entry, targetOf(major, minor));
        return [image?.origin, image?.architecture];
      });
      expect(origins).toEqual(matrix.map(() => ["embedded", architecture]));
    }
  });

  test("takes the registers and the shared memory that docs/kernel-resources.md states", () => {
    const page = readFileSync(join(root, "docs", "kernel-resources.md"), "utf8");
    expect(resourcesPage(compiled)).toBe(page);
  });

  test("leaves the registers for as many blocks as the traits promise", () => {
    const promised = compiled.filter(({ entry }) => "FB_MIN_BLOCKS" in entry.constants);
    expect(promised.length).toBeGreaterThan(0);
    for (const { entry, kernels } of promised) {
      const { FB_THREADS, FB_MIN_BLOCKS } = entry.constants as Record<string, number>;
      const registers = Math.ceil(kernels[0].registers / 8) * 8;
      expect(registers * FB_THREADS * FB_MIN_BLOCKS).toBeLessThanOrEqual(65536);
    }
  });

  // Not embedded: no such GPU has run them.
  test.each(["sm_100a", "sm_120a"])("can be compiled for %s", async (architecture) => {
    const nvcc = await findNvcc();
    const tiles = /d(64|128|256) bf16\/(bf16|f8e4m3)$/;
    const some = matrixOf(architecture).filter(({ name }) => tiles.test(name));
    const made = await Promise.all(some.map((entry) => compileWithNvcc(nvcc, entry, architecture)));
    expect(made.map(({ entry }) => entry.name)).toEqual(some.map(({ name }) => name));
    expect(made.flatMap(({ faults }) => faults)).toEqual([]);
    expect(made.length).toBeGreaterThan(2);
  });

  test("fits a library of less than 40 MB", () => {
    expect(statSync(libraryPath()).size).toBeLessThan(40e6);
  });
});

describe("NVRTC", () => {
  test("is of the version that nvcc is of", () => {
    expect(findNvrtc().found?.version).toBe(pinnedVersion);
  });

  // A compiler that passes this makes the rule unneeded.
  test("is refused what ptxas makes wrong of a clamp at both ends", async () => {
    const compiled = compile({ source: "clamp.cu", constants: {} }, clampSource, "sm_90a");
    await expect(compiled).rejects.toThrow(
      /ptxas makes it wrong\nclamp compares .* \(\d VIMNMX.RELU\): clamp it at one end\nFix: /,
    );
  });

  // Every fifth entry: nvcc has compiled them all.
  test.each(architectures)("compiles for %s without a GPU", async (architecture) => {
    const matrix = matrixOf(architecture).filter((_, i) => i % 5 === 0);
    const images = await Promise.all(
      matrix.map((entry) => compile(entry, expand(entry), architecture)),
    );
    const magic = images.map((image) => new TextDecoder().decode(image.subarray(1, 4)));
    expect(magic).toEqual(matrix.map(() => "ELF"));
  });
});
