import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { kernelFiles, sourcesModule } from "../../scripts/sources.ts";
import { versions } from "../../scripts/toolchain.ts";
import { pinnedVersion } from "../../src/jit/nvrtc.ts";
import { sources } from "../../src/jit/sources.gen.ts";
import { expandSource } from "../../src/jit/specialization.ts";
import { root } from "../support/sources.ts";

test("every file below kernels/ is carried as text (`bun run sources` writes the list)", () => {
  const written = readFileSync(join(root, "src", "jit", "sources.gen.ts"), "utf8");
  expect(written).toBe(sourcesModule(kernelFiles()));
  for (const [path, text] of Object.entries(sources))
    expect(text).toBe(readFileSync(join(root, "kernels", path), "utf8"));
});

test("every kernel expands to a text that needs no other file", () => {
  for (const source of Object.keys(sources).filter((path) => path.endsWith(".cu")))
    expect(expandSource(source, sources)).not.toMatch(/#\s*include\s*"/);
});

test("images are named after the CUDA version that toolchain.zon pins", () => {
  for (const name of ["nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-nvrtc"])
    expect(versions[name]).toStartWith(`${pinnedVersion}.`);
});
