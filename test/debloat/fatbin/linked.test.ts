/** Shared libraries that nvcc links, shrunk: NVIDIA's own reader finds what is left. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { Pool } from "../../../src/debloat/pool/pool.ts";
import type { ShrinkOptions } from "../../../src/debloat/shrink/options.ts";
import { restoreFile } from "../../../src/debloat/shrink/restore.ts";
import { shrinkLibrary } from "../../../src/debloat/shrink/shrink.ts";
import { temporaryFolder } from "../support/make-library.ts";
import { dump, nvccHere, run } from "../support/nvcc.ts";

const nvcc = Bun.which("gcc") === null ? undefined : nvccHere();
const minutes = 60_000;
let folder: string;
let plain: string;
let linked: string;
using pool = new Pool(0);

beforeAll(async () => {
  if (nvcc === undefined) return;
  folder = temporaryFolder("linked");
  const sources = ["matrix.cu", "linked.cu"].map((name) => join(import.meta.dir, name));
  const targets = ["80", "90", "120"].map((arch) => `arch=compute_${arch},code=sm_${arch}`);
  const common = [...targets, "arch=compute_90,code=compute_90"].flatMap((t) => ["-gencode", t]);
  const libraries = `-L${join(nvcc, "../../lib")}`;
  const flags = ["-shared", "-Xcompiler", "-fPIC", libraries, "--threads", "2", ...common];
  plain = join(folder, "libplain.so");
  linked = join(folder, "liblinked.so");
  await run(nvcc, [...flags, "-o", plain, sources[0]]);
  const relative = ["-Xlinker", "-z,pack-relative-relocs"];
  await run(nvcc, [...flags, ...relative, "-rdc=true", "-o", linked, ...sources]);
}, 5 * minutes);

afterAll(() => {
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
});

/** Shrinks, brings the original back, and lists the images that are left. */
async function shrink(library: string, options: ShrinkOptions) {
  const [out, sidecar, back] = ["out.so", "out.side", "back.so"].map((name) => join(folder, name));
  await shrinkLibrary(library, out, { ...options, sidecar }, pool);
  restoreFile(out, sidecar, back);
  expect(await Bun.file(back).bytes()).toEqual(await Bun.file(library).bytes());
  const readelf = Bun.which("readelf");
  if (readelf !== null) expect(Bun.spawnSync([readelf, "-lSW", out]).stderr.toString()).toBe("");
  return {
    out: out,
    images: (await dump(out)).map(({ kind, arch, kernels }) => [kind, arch, kernels]),
  };
}

describe.skipIf(nvcc === undefined)("libraries of nvcc", () => {
  const reversed = ["_Z7reverseILi32EEvPf", "_Z7reverseILi64EEvPf"];
  const all = [...reversed, "count", "cubes", "indirect", "scale", "speak"];

  test("by architecture", async () => {
    // The runtime adds an image without kernels, which nothing refers to.
    const { images, out } = await shrink(plain, { arch: ["sm_90"] });
    expect(images.filter(([, , kernels]) => kernels.length > 0)).toEqual([["elf", "sm_90", all]]);
    expect(await load(out)).toBe("");
    const newer = await shrink(plain, { arch: ["sm_100"] });
    const ptx = newer.images.filter(([kind]) => kind === "ptx");
    expect(ptx.map(([, arch]) => arch)).toEqual(["sm_90"]);
    expect(newer.images.filter(([, , kernels]) => kernels.length > 0)).toEqual([]);
  });

  test("by kernel", async () => {
    const keep = /^(count|_Z7reverseILi64EEvPf)$/;
    const { images, out } = await shrink(plain, { arch: ["sm_120"], keep, strip: true });
    const left = images.filter(([, , kernels]) => kernels.length > 0);
    expect(left).toEqual([["elf", "sm_120", ["_Z7reverseILi64EEvPf", "count"]]]);
    expect(await load(out)).toBe("");
  });

  test("linked device code: functions that pointers reach stay, what was linked goes", async () => {
    const before = await dump(linked);
    expect(before.filter(({ arch }) => arch === "sm_90")).toHaveLength(5);
    const keep = /^across$/;
    const { images, out } = await shrink(linked, { arch: ["sm_90"], keep, dropRel: true });
    const left = images.filter(([, , kernels]) => kernels.length > 0);
    expect(left).toEqual([["elf", "sm_90", ["across"]]]);
    const { functions } = (await dump(out)).find(({ kernels }) => kernels.length > 0)!;
    expect(functions).toContain("_Z6squaref");
    expect(functions).not.toContain("_Z4cubef");
    expect(await load(out)).toBe("");
  });
});

/** What the loader says against a library, bound at once. */
async function load(library: string): Promise<string> {
  const program = join(folder, "load");
  const source = `
    #include <dlfcn.h>
    #include <stdio.h>
    int main(int count, char **words) {
      return dlopen(words[1], RTLD_NOW) == NULL ? (puts(dlerror()), 1) : 0;
    }`;
  await Bun.write(`${program}.c`, source);
  await run("gcc", ["-o", program, `${program}.c`, "-ldl"]);
  return Bun.spawnSync([program, library]).stdout.toString();
}
