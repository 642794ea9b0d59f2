import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  exportedNames,
  kernelFiles,
  otherRuntimeModule,
  sourcesModule,
} from "../../scripts/sources.ts";
import { versions } from "../../scripts/toolchain.ts";
import { pinnedVersion } from "../../src/jit/nvrtc.ts";
import { sources } from "../../src/jit/sources.gen.ts";
import { expandSource, sourceDigest } from "../../src/jit/specialization.ts";
import { root } from "../support/sources.ts";

test("every file below kernels/ is carried as text (`bun run sources` writes the list)", () => {
  const written = readFileSync(join(root, "src", "jit", "sources.gen.ts"), "utf8");
  expect(written).toBe(sourcesModule(kernelFiles()));
  for (const [path, text] of Object.entries(sources))
    expect(text).toBe(readFileSync(join(root, "kernels", path), "utf8"));
});

test("other runtimes are told what flashbun needs (`bun run sources` writes the module)", async () => {
  const written = readFileSync(join(root, "src", "other-runtime.gen.js"), "utf8");
  expect(written).toBe(otherRuntimeModule(await exportedNames()));
  expect(written).toContain("flashbun needs Bun 1.4.5 or later");
});

test("every kernel expands to a text that needs no other file", () => {
  for (const source of Object.keys(sources).filter((path) => path.endsWith(".cu")))
    expect(expandSource(source, sources)).not.toMatch(/#\s*include\s*"/);
});

/** Sources whose images depend on the structs of a family. */
const dependents: [family: string, sources: string[]][] = [
  ["argmax", ["argmax/argmax.cu"]],
  [
    "attention",
    [
      "contents",
      "hopper/prefill",
      "hopper/wide",
      "merge",
      "mla/bytes",
      "mla/decode",
      "mla/turned",
      "tiled/decode",
      "tiled/prefill",
    ].map((name) => `attention/${name}.cu`),
  ],
  ["device", []],
  ["gather", ["gather/gather.cu"]],
  ["map", ["map/map.cu"]],
  ["norm", ["norm/norm.cu"]],
  ["page", ["page/page.cu", "rope/rope.cu"]],
  ["probe", ["probe/probe.cu"]],
  ["quantize", ["quantize/quantize.cu"]],
  ["states", ["states/states.cu"]],
  ["tensor", ["tensor/tensor.cu"]],
  ["variant_probe", []],
];

test.each(dependents)("a struct more in params/%s.h changes the hashes of %p", (family, wanted) => {
  const path = `params/${family}.h`;
  const more = { ...sources, [path]: `${sources[path]}\nstruct fb_more {\n    int32_t x;\n};\n` };
  // The digest, which images are looked for by, and the text, which they are compiled from.
  for (const of of [sourceDigest, expandSource]) {
    const changed = Object.keys(sources)
      .filter((source) => source.endsWith(".cu"))
      .filter((source) => of(source, sources) !== of(source, more));
    expect(changed).toEqual(wanted);
  }
});

test("images are named after the CUDA version that toolchain.zon pins", () => {
  for (const name of ["nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-nvrtc"])
    expect(versions[name]).toStartWith(`${pinnedVersion}.`);
});
