/** A small CUDA library as NVIDIA ships it: 1.2 MB from PyPI, fetched once. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { inspectLibrary } from "../../src/debloat/inspect.ts";
import { Pool } from "../../src/debloat/pool.ts";
import { restoreFile } from "../../src/debloat/restore.ts";
import { shrinkLibrary } from "../../src/debloat/shrink.ts";
import { root } from "../support/zig.ts";
import { temporaryFolder } from "./make-library.ts";
import { dump, nvccHere, run } from "./nvcc.ts";

const minutes = 60_000;
const wheel = "nvidia-cufile==1.15.1.6";
const fetched = join(root, ".toolchain", "cufile");
const library = join(fetched, "nvidia/cu13/lib/libcufile.so.0");
const python = Bun.which("python3");
let folder: string;
using pool = new Pool(0);

beforeAll(async () => {
  folder = temporaryFolder("real");
  if (python === null || existsSync(library)) return;
  mkdirSync(fetched, { recursive: true });
  const quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"];
  await run(python, ["-m", "pip", "download", ...quiet, "--dest", folder, wheel]);
  const unpack =
    "import glob, sys, zipfile\n" +
    "for wheel in glob.glob(sys.argv[1] + '/*.whl'): zipfile.ZipFile(wheel).extractall(sys.argv[2])";
  await run(python, ["-c", unpack, folder, fetched]);
}, 5 * minutes);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.skipIf(python === null)("libcufile of CUDA 13.0", () => {
  test("is what it was found to be", async () => {
    const { archs, functions, bytes, buildId, opaque } = await inspectLibrary(library, pool);
    expect(bytes).toBe(3_170_800);
    expect(buildId).toMatch(/^[0-9a-f]{40}$/);
    expect(opaque).toEqual([]);
    expect(archs.map(({ arch, kernels, none, lz4 }) => [arch, kernels, none, lz4])).toEqual([
      ["sm_75", 5, 1, 0],
      ["sm_80", 5, 1, 0],
      ["compute_86", 5, 0, 1],
      ["sm_86", 5, 1, 0],
    ]);
    expect(functions.bytes / functions.textBytes).toBeGreaterThan(0.9);
  });

  test("shrinks, loads and comes back", async () => {
    const [out, sidecar, back] = ["out.so", "out.side", "back.so"].map((name) =>
      join(folder, name),
    );
    const options = { arch: ["sm_86"], strip: true, keep: /^cuFileCopyGpu$/, sidecar };
    const { before, after } = await shrinkLibrary(library, out!, options, pool);
    expect(after.fatbin).toBeLessThan(0.2 * before.fatbin);
    restoreFile(out!, sidecar!, back!);
    expect(await Bun.file(back!).bytes()).toEqual(await Bun.file(library).bytes());
    const load = "import ctypes, os, sys; ctypes.CDLL(sys.argv[1], os.RTLD_NOW)";
    await run(python!, ["-c", load, library]);
    await run(python!, ["-c", load, out!]);
    if (nvccHere() === undefined) return;
    const images = await dump(out!);
    expect(images.map(({ arch, kernels }) => [arch, kernels])).toEqual([
      ["sm_86", ["cuFileCopyGpu"]],
    ]);
  });
});
