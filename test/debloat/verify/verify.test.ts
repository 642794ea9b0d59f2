/** What verify says of libraries that are right, and of ones that were changed on purpose. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type Section,
  sectionNamed,
  sectionType,
  segmentType,
} from "../../../src/debloat/elf/elf.ts";
import { dropKernels } from "../../../src/debloat/fatbin/cubin-drop.ts";
import { readCubin } from "../../../src/debloat/fatbin/cubin.ts";
import { readLibrary } from "../../../src/debloat/library.ts";
import { Pool } from "../../../src/debloat/pool/pool.ts";
import { emptyProfile } from "../../../src/debloat/profile/profile.ts";
import { shrinkLibrary } from "../../../src/debloat/shrink/shrink.ts";
import { compareCubins } from "../../../src/debloat/verify/cubin.ts";
import { type Check, verifyLibrary } from "../../../src/debloat/verify/verify.ts";
import { DebloatError } from "../../../src/errors.ts";
import { forSeeds, type Random } from "../../support/random.ts";
import { makeCubin } from "../support/make-cubin.ts";
import { makeContainer, makeLibrary, temporaryFolder } from "../support/make-library.ts";

const minutes = 60_000;
let folder: string;
let original: string;
let shrunk: string;
let sidecar: string;

function cubin(arch: number, n: number): Uint8Array {
  const kernels = [
    { name: `add${n}`, bytes: 1600, calls: ["helper"] },
    { name: `multiply${n}`, bytes: 5120, calls: ["other"] },
    { name: "everywhere", bytes: 3200 },
  ];
  const functions = [
    { name: "helper", bytes: 320 },
    { name: "other", bytes: 640 },
  ];
  return makeCubin({ arch, seed: 100 * arch + n, kernels, functions });
}

beforeAll(async () => {
  folder = temporaryFolder("verify");
  [original, shrunk, sidecar] = ["libwhole.so", "shrunk.so", "shrunk.side"].map((name) =>
    join(folder, name),
  ) as [string, string, string];
  const containers = Array.from({ length: 5 }, (_, n) => {
    const packing = (["zstd", "none", "lz4"] as const)[n % 3];
    return makeContainer([80, 90, 120].map((arch) => ({ image: cubin(arch, n), arch, packing })));
  });
  const made = { loaded: containers, relocatable: containers, spareFunctions: 300, pinned: 2 };
  await makeLibrary(original, made);
  const { buildId, elf } = readLibrary(Bun.mmap(original), original);
  const first = Math.floor(sectionNamed(elf, ".text")!.address / 4096);
  const library = {
    path: original,
    bytes: elf.bytes.length,
    cubins: [],
    globals: [],
    functions: [],
    kernels: ["add0", "add1", "multiply3", "everywhere"],
    pages: [[first, 3]],
  };
  const profile = { ...emptyProfile(), libraries: { [buildId!]: library as never } };
  using pool = new Pool(0);
  const options = { arch: ["sm_90"], profile, host: "pages", strip: true, dropRel: true } as const;
  await shrinkLibrary(original, shrunk, { ...options, sidecar }, pool);
}, 5 * minutes);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

const verdicts = (checks: readonly Check[]) => checks.map(({ name, verdict }) => [name, verdict]);
const problems = (checks: readonly Check[]) => checks.flatMap((check) => check.problems);

describe("a library", () => {
  test("that shrink wrote is right, and the figures are those of shrink", () => {
    const checks = verifyLibrary(original, shrunk, sidecar);
    expect(problems(checks)).toEqual([]);
    expect(verdicts(checks)).toEqual([
      ["memory", "right"],
      ["fat binaries", "right"],
      ["sidecar", "right"],
    ]);
    expect(checks[0].detail).toMatch(/^\d+ bytes are where .* \d+ of host code are left out$/);
    // Ten containers with a pointer each; the pinned one keeps its three images.
    expect(checks[1].detail).toMatch(
      /^10 pointers lead to 10 containers, 3 images are the same, 4 keep 7 kernels .* lack 5, /,
    );
  });

  test("with host code left out needs its sidecar", () => {
    expect(problems(verifyLibrary(original, shrunk))).toEqual([
      "host code is left out and no sidecar was given (--sidecar)",
    ]);
  });

  test("that is not of its original, or that debloat did not write, is refused", async () => {
    expect(() => verifyLibrary(original, original)).toThrow("debloat did not write it");
    expect(() => verifyLibrary(shrunk, shrunk)).toThrow("it was shrunk already");
    const other = join(folder, "libother.so");
    await makeLibrary(other, { loaded: [makeContainer([])] });
    expect(() => verifyLibrary(other, shrunk)).toThrow("is not that of");
  });

  test(
    "with any byte of what is mapped changed is wrong",
    () => {
      const bytes = Bun.mmap(shrunk).slice();
      const sections = readLibrary(bytes.subarray(0, -64), shrunk).elf.sections.filter(
        ({ name, type, bytes: count }) =>
          type !== sectionType.nobits &&
          count > 0 &&
          !/^\.(symtab|strtab|shstrtab|comment)/.test(name),
      );
      forSeeds(300, (random) => {
        const { name, offset, bytes: count } = random.pick(sections);
        const changed = flip(bytes, random, offset, count);
        const place = { name, at: changed.at - offset };
        expect({ ...place, found: isFound(changed.bytes) }).toEqual({ ...place, found: true });
      });
    },
    minutes,
  );

  test(
    "with segments that lie elsewhere, overlap or have other rights is wrong",
    () => {
      const bytes = Bun.mmap(shrunk).slice();
      const { segments, segmentsOffset } = readLibrary(bytes.subarray(0, -64), shrunk).elf;
      // Type, rights, offset in the file, address, sizes in the file and in memory.
      const fields = [0, 4, 8, 16, 32, 40];
      forSeeds(100, (random) => {
        const { index, type, fileBytes } = random.pick(segments);
        // What the table says of itself does not count, and what is empty is nowhere.
        if (type === segmentType.table || fileBytes === 0) return;
        const field = random.pick(fields);
        const changed = flip(bytes, random, segmentsOffset + 56 * index + field, 2);
        const place = { index, type, field };
        expect({ ...place, found: isFound(changed.bytes) }).toEqual({ ...place, found: true });
      });
    },
    minutes,
  );

  test(
    "with bytes lost or added is wrong",
    () => {
      const bytes = Bun.mmap(shrunk).slice();
      const { elf } = readLibrary(bytes.subarray(0, -64), shrunk);
      const end = Math.max(...elf.sections.map(({ offset, bytes: count }) => offset + count));
      forSeeds(100, (random) => {
        const at = random.integer(0, end - 1);
        const more = random.chance(0.5) ? random.integer(1, 5000) : 0;
        const less = more === 0 ? random.integer(1, end - at) : 0;
        const changed = Buffer.concat([
          bytes.subarray(0, at),
          new Uint8Array(more),
          bytes.subarray(at + less),
        ]);
        const place = { at, more, less };
        expect({ ...place, found: isFound(changed) }).toEqual({ ...place, found: true });
      });
    },
    minutes,
  );
});

/** Bytes with one of them changed. */
function flip(bytes: Uint8Array<ArrayBuffer>, random: Random, offset: number, count: number) {
  const at = offset + random.integer(0, count - 1);
  const changed = bytes.slice();
  changed[at] ^= 1 << random.integer(0, 7);
  return { at, bytes: changed };
}

/** Whether verify sees that a library was changed. */
function isFound(bytes: Uint8Array): boolean {
  const path = join(folder, "changed.so");
  writeFileSync(path, bytes);
  try {
    return problems(verifyLibrary(original, path)).length > 1;
  } catch (error) {
    if (error instanceof DebloatError) return true;
    throw error;
  }
}

describe("a sidecar", () => {
  const changes: [string, (bytes: Uint8Array) => void, string][] = [
    ["of other bytes", (bytes) => void (bytes[5000] ^= 1), "the original does not come out of it"],
    ["of another library", (bytes) => void (bytes[60] ^= 1), "it belongs to another library"],
    ["of another original", (bytes) => void (bytes[30] ^= 1), "it is of another original"],
    [
      "whose pages are elsewhere",
      (bytes) => {
        const view = new DataView(bytes.buffer);
        const table = Number(view.getBigUint64(88, true));
        view.setBigUint64(table + 16, view.getBigUint64(table + 16, true) + 4096n, true);
      },
      "of its runs of pages are not the original's",
    ],
    [
      "that lacks pages",
      (bytes) => {
        const view = new DataView(bytes.buffer);
        view.setBigUint64(96, 0n, true);
      },
      "bytes of its pages could not come back from it",
    ],
  ];
  test.each(changes)("%s is wrong", (_, change, problem) => {
    const bytes = Bun.mmap(sidecar).slice();
    change(bytes);
    const path = join(folder, "changed.side");
    writeFileSync(path, bytes);
    expect(problems(verifyLibrary(original, shrunk, path)).join("; ")).toContain(problem);
  });
});

describe("a cubin that kernels went from", () => {
  const whole = cubin(90, 1);
  const trim = (...kept: string[]) => {
    const dropped = dropKernels(readCubin(whole, "a"), (name) => kept.includes(name));
    return Uint8Array.from(dropped!.image);
  };
  const compare = (image: Uint8Array) =>
    compareCubins(readCubin(whole, "a"), readCubin(image, "a"));

  const isSameTable = (...images: [Uint8Array, Uint8Array]) => {
    const [a, b] = images.map((image) => [...readCubin(image, "a").symbols]);
    return Bun.deepEquals(a, b);
  };

  test("is right, whichever went", () => {
    for (const kept of [["add1"], ["multiply1"], ["everywhere"], ["add1", "everywhere"], []])
      expect(compare(trim(...kept))).toEqual([]);
    expect(compare(whole)).toEqual([]);
  });

  test("with any byte of any section changed is wrong", () => {
    const image = trim("add1");
    const { elf } = readCubin(image, "a");
    const sections = elf.sections.filter(
      ({ type, bytes }) => type !== 0 && type !== 8 && bytes > 0,
    );
    forSeeds(1000, (random) => {
      const section: Section = random.pick(sections);
      const { at, bytes } = flip(image, random, section.offset, section.bytes);
      // Names that nothing has any more are zeros, and what they are does not matter.
      if (section.type === sectionType.strtab && image[at] === 0) return;
      let found: string[];
      try {
        found = compare(bytes);
        // A name that was empty may be at any other empty place.
        if (section.type === sectionType.symtab && isSameTable(image, bytes)) return;
      } catch (error) {
        expect(error).toBeInstanceOf(DebloatError);
        return;
      }
      expect({ section: section.name, at: at - section.offset, found: found.length > 0 }).toEqual({
        section: section.name,
        at: at - section.offset,
        found: true,
      });
    });
  });

  test("that lost a section of a kernel, or what it calls, is wrong", () => {
    const image = trim("add1");
    expect(compareCubins(readCubin(image, "a"), readCubin(whole, "a"))[0]).toContain("not the");
    // A cubin of another seed has the same tables and other code.
    const other = makeCubin({ arch: 90, seed: 1, kernels: [{ name: "add1", bytes: 1600 }] });
    expect(compareCubins(readCubin(other, "a"), readCubin(image, "a")).length).toBeGreaterThan(0);
  });
});
