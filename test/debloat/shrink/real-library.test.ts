/** A library as NVIDIA ships it, from PyPI: what is in it, and what is left of it. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { findCudaLibrary } from "../../../scripts/toolchain.ts";
import { inspectLibrary } from "../../../src/debloat/inspect/inspect.ts";
import { Pool } from "../../../src/debloat/pool/pool.ts";
import { emptyProfile } from "../../../src/debloat/profile/profile.ts";
import type { ShrinkOptions } from "../../../src/debloat/shrink/options.ts";
import { restoreFile } from "../../../src/debloat/shrink/restore.ts";
import { shrinkLibrary } from "../../../src/debloat/shrink/shrink.ts";
import { verifyLibrary } from "../../../src/debloat/verify/verify.ts";
import { runBun } from "../../support/run.ts";
import { root } from "../../support/zig.ts";
import { temporaryFolder } from "../support/make-library.ts";
import { dump, nvccHere } from "../support/nvcc.ts";

const minutes = 60_000;
const kernels = [
  "cuFileCopyGpu",
  "cuFileCopyGpuPosixIORetry",
  "cuFileGpuWaitValue32",
  "cuFileInlineGpu",
  "cuFileSparseGpu",
];
let library: string;
let folder: string;
let hash: bigint;
using pool = new Pool(0);

beforeAll(async () => {
  library = await findCudaLibrary();
  hash = Bun.hash.xxHash64(readFileSync(library));
  folder = temporaryFolder("real-library");
}, 5 * minutes);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("its images, packings and kernels are found", async () => {
  const { buildId, containers, functions, opaque } = await inspectLibrary(library, pool, true);
  expect(opaque).toEqual([]);
  expect(buildId).toBe("649a6b5f526af3161c5ce08511651f1a7877c155");
  const images = containers.flatMap((container) => container.images);
  const facts = images.map(({ arch, kind, compression }) => [arch, kind, compression]);
  expect(facts).toEqual([
    ["sm_75", "cubin", "none"],
    ["sm_80", "cubin", "none"],
    ["compute_86", "ptx", "lz4"],
    ["sm_86", "cubin", "none"],
  ]);
  for (const { kernelNames } of images)
    expect(kernelNames.map(({ name }) => name).sort()).toEqual(kernels);
  expect(functions.bytes / functions.textBytes).toBeGreaterThan(0.98);
});

describe("shrunk, it is right, loads, and comes back", () => {
  const cases: [string, ShrinkOptions, RegExp][] = [
    ["for sm_75", { arch: ["sm_75"] }, /1 images are the same, 3 are gone/],
    ["for a GPU that compiles its PTX", { arch: ["sm_120"] }, /1 images are the same, 3 are gone/],
    ["packed anew", { recompress: 19 }, /4 are packed anew, 0 are gone/],
    [
      "to one kernel",
      { arch: ["sm_80", "sm_86"], keep: /^cuFileCopyGpu$/, strip: true, dropRel: true },
      /2 keep 2 kernels as they were and lack 8, 2 are gone/,
    ],
  ];
  test.each(cases)("%s", async (name, options, device) => {
    const [shrunk, sidecar, back] = ["lib.so", "lib.side", "back.so"].map((file) =>
      join(folder, name, file),
    ) as [string, string, string];
    await shrinkLibrary(library, shrunk, { ...options, sidecar }, pool);
    const checks = verifyLibrary(library, shrunk, sidecar);
    expect(checks.flatMap(({ problems }) => problems)).toEqual([]);
    expect(checks[1].detail).toMatch(device);
    restoreFile(shrunk, sidecar, back);
    // CUDA's own tool reads what came out, where it is at hand.
    if (options.keep !== undefined && nvccHere() !== undefined) {
      const images = await dump(shrunk);
      expect(images.map(({ arch, kernels: left }) => [arch, left])).toEqual([
        ["sm_80", ["cuFileCopyGpu"]],
        ["sm_86", ["cuFileCopyGpu"]],
      ]);
    }
    expect(Bun.hash.xxHash64(readFileSync(back))).toBe(hash);
    expect(Bun.hash.xxHash64(readFileSync(library))).toBe(hash);
  });

  test(
    "with all host code in its sidecar, opened in a process of its own",
    async () => {
      const { buildId } = await inspectLibrary(library, pool);
      const nothing = { kernels: [], cubins: [], globals: [], pages: [] };
      // One byte of code that ran: all other pages may go.
      const functions = [[0, 1]] as [number, number][];
      const used = { path: library, bytes: statSync(library).size, ...nothing, functions };
      const profile = { ...emptyProfile(), libraries: { [buildId!]: used } };
      const shrunk = join(folder, "libcufile.so.0");
      const sidecar = join(folder, `${buildId}.side`);
      const options = { profile, host: "pages", level: "arch", arch: ["sm_80"], sidecar } as const;
      const { before, after } = await shrinkLibrary(library, shrunk, options, pool);
      expect(after.text).toBeLessThan(0.2 * before.text);
      const command = ["debloat", "verify", library, folder, "--sidecar", folder];
      const found = await runBun([join(root, "src", "cli", "main.ts"), ...command]);
      expect(found).toMatchObject({ code: 0, stderr: "" });
      expect(found.stdout).toMatch(
        /dlopen: right, .* constructors run, \d+ runs? of host code came back/,
      );
    },
    minutes,
  );
});
