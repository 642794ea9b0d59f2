/** Damaged files: each is refused by a typed error or worked on, at once and in little memory. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { dropKernels } from "../../../src/debloat/fatbin/cubin-drop.ts";
import { readCubin } from "../../../src/debloat/fatbin/cubin.ts";
import { Pool } from "../../../src/debloat/pool/pool.ts";
import { shrinkLibrary } from "../../../src/debloat/shrink/shrink.ts";
import { readSidecar } from "../../../src/debloat/shrink/sidecar.ts";
import { fuzz, shrinkDamaged, tablesOf } from "../support/damage.ts";
import { makeCubin } from "../support/make-cubin.ts";
import { makeContainer, makeLibrary, temporaryFolder } from "../support/make-library.ts";

const libraryCases = 12_000;
const cubinCases = 6_000;
const sidecarCases = 2_000;
const minutes = 60_000;

let folder: string;
let library: Uint8Array;
let cubin: Uint8Array;
let sidecar: Uint8Array;
using pool = new Pool(0);

beforeAll(async () => {
  folder = temporaryFolder("fuzz");
  const kernels = ["a", "b", "c"].map((name) => ({ name, bytes: 640, calls: ["helper"] }));
  const functions = [{ name: "helper", bytes: 64 }];
  const made = { kernels, functions, pointers: ["helper"], globals: ["v"], seed: 1 };
  cubin = makeCubin({ ...made, arch: 90 });
  const packings = ["none", "zstd", "lz4"] as const;
  const containers = packings.map((packing) =>
    makeContainer([80, 90].map((arch) => ({ image: makeCubin({ ...made, arch }), arch, packing }))),
  );
  const path = join(folder, "libfuzz.so");
  const parts = { loaded: containers, relocatable: containers.slice(1), spareFunctions: 60 };
  await makeLibrary(path, { ...parts, pinned: 0 });
  library = await Bun.file(path).bytes();
  const written = join(folder, "lib.side");
  await shrinkLibrary(path, join(folder, "lib.so"), { arch: ["sm_90"], sidecar: written }, pool);
  sidecar = await Bun.file(written).bytes();
}, 5 * minutes);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

test(
  "damaged libraries",
  async () => {
    const { refused } = await fuzz(libraryCases, library, tablesOf(library), shrinkDamaged);
    // Most damage is where it can be seen, some where it is never read.
    expect(refused).toBeGreaterThan(libraryCases / 10);
    expect(refused).toBeLessThan((9 * libraryCases) / 10);
  },
  20 * minutes,
);

test(
  "damaged cubins",
  async () => {
    const tables = [
      0,
      32,
      64,
      cubin.length - 56,
      ...Array.from({ length: 30 }, (_, at) => at * 64),
    ];
    const ends = Array.from({ length: 24 }, (_, at) => cubin.length - 56 - 64 * at);
    const { refused } = await fuzz(cubinCases, cubin, [...tables, ...ends], (damaged, random) => {
      const kept = random.pick(["a", "b", "none"]);
      const trimmed = dropKernels(readCubin(damaged, "damaged"), (name) => name === kept);
      if (trimmed !== undefined) readCubin(trimmed.image, "damaged");
    });
    expect(refused).toBeGreaterThan(cubinCases / 10);
  },
  5 * minutes,
);

test(
  "damaged sidecars",
  async () => {
    const tables = [0, 8, 80, 88, 96, 104, 112, sidecar.length - 600, sidecar.length - 200];
    const { refused } = await fuzz(sidecarCases, sidecar, tables, (damaged) =>
      readSidecar(damaged, "damaged"),
    );
    expect(refused).toBeGreaterThan(sidecarCases / 10);
  },
  5 * minutes,
);
