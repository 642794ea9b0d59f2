/** Containers and cubins that were made by hand, so that every byte of the answer is known. */
import { describe, expect, test } from "bun:test";
import { sectionBytes, sectionNamed } from "../../../src/debloat/elf/elf.ts";
import { unpack, UnpackError } from "../../../src/debloat/fatbin/compression.ts";
import { contentsOf } from "../../../src/debloat/fatbin/contents.ts";
import { dropKernels } from "../../../src/debloat/fatbin/cubin-drop.ts";
import { type Cubin, readCubin } from "../../../src/debloat/fatbin/cubin.ts";
import { editEntry } from "../../../src/debloat/fatbin/edit.ts";
import { type Entry, imageOf, readFatbins } from "../../../src/debloat/fatbin/fatbin.ts";
import { neededBy, parseTarget } from "../../../src/debloat/fatbin/select.ts";
import { forSeeds, type Random } from "../../support/random.ts";
import { type MadeCubin, makeCubin } from "../support/make-cubin.ts";
import { makeContainer, type MadeEntry, packLz4 } from "../support/make-library.ts";

/** Kernels and functions that call each other at random, never in a circle. */
function randomCubin(random: Random): MadeCubin {
  const functions = Array.from({ length: random.integer(0, 6) }, (_, n) => ({
    name: `function${n}`,
    bytes: 16 * random.integer(1, 40),
    calls: Array.from({ length: n }, (_, m) => `function${m}`).filter(() => random.chance(0.3)),
  }));
  const kernels = Array.from({ length: random.integer(1, 8) }, (_, n) => ({
    name: `kernel${n}`,
    bytes: 16 * random.integer(1, 100),
    calls: functions.map(({ name }) => name).filter(() => random.chance(0.3)),
  }));
  const pointers = functions.map(({ name }) => name).filter(() => random.chance(0.2));
  const globals = ["first", "second"].slice(0, random.integer(0, 2));
  return { arch: 90, seed: random.seed, kernels, functions, pointers, globals };
}

/** What kernels need, by following calls one by one. */
function reached(made: MadeCubin, kernels: readonly string[]): string[] {
  const all = [...made.kernels, ...(made.functions ?? [])];
  const found = new Set<string>();
  const visit = (name: string) => {
    if (found.has(name)) return;
    found.add(name);
    for (const callee of all.find((f) => f.name === name)?.calls ?? []) visit(callee);
  };
  for (const name of [...kernels, ...(made.pointers ?? [])]) visit(name);
  return [...found].sort();
}

/** Links between sections, symbols and tables about functions: only what went is missing. */
function expectSameTables(made: MadeCubin, before: Cubin, after: Cubin, code: string[]): void {
  const sections = { before: before.elf.sections, after: after.elf.sections };
  for (const { name, link, info, flags } of sections.after) {
    const original = sectionNamed(before.elf, name)!;
    const linked = sections.before[original.link].name;
    expect(sections.after[link].name).toBe(linked);
    if (flags & 0x40) expect(sections.after[info].name).toBe(sections.before[original.info].name);
  }
  // Relocations name symbols by number: those have to stay the same.
  const symbols = [before, after].map((cubin) => [...cubin.symbols.values()][0]);
  expect(symbols[1]).toHaveLength(symbols[0].length);
  symbols[0].forEach((symbol, at) => {
    const home = sections.before[symbol.section].name;
    const place = sections.after.findIndex(({ name }) => name === home);
    const gone = { name: "", info: 0, other: 0, section: 0xfff1, value: 0, bytes: 0 };
    expect(symbols[1][at]).toEqual(place < 0 ? gone : { ...symbol, section: place });
  });
  const bytesOf = (name: string) => sectionNamed(after.elf, name)!.bytes;
  const all = [...made.kernels, ...(made.functions ?? [])];
  const edges = all.filter(({ name }) => code.includes(name)).flatMap(({ calls = [] }) => calls);
  expect(bytesOf(".nv.info")).toBe(2 * 12 * code.length);
  expect(bytesOf(".nv.callgraph")).toBe(8 + 8 * edges.length);
  const names = Buffer.from(
    sectionBytes(after.elf, sectionNamed(after.elf, ".strtab")!),
  ).toString();
  expect(names.split("\0").filter(Boolean).sort()).toEqual(
    [...code, ...(made.globals ?? [])].sort(),
  );
  const [segment] = after.elf.segments;
  const inside = sections.after.filter(({ flags, fileBytes }) => flags & 2 && fileBytes > 0);
  const last = inside.reduce((a, b) => (b.offset > a.offset ? b : a));
  expect(segment.offset).toBe(Math.min(...inside.map(({ offset }) => offset)));
  expect(segment.offset + segment.fileBytes).toBe(last.offset + last.fileBytes);
}

describe("cubins", () => {
  test("any kernels can go: what is left is what those that stay need, byte for byte", () => {
    forSeeds(200, (random) => {
      const made = randomCubin(random);
      const image = makeCubin(made);
      const before = readCubin(image, "made");
      expect(before.kernels.map(({ name }) => name)).toEqual(made.kernels.map(({ name }) => name));
      expect(before.globals).toEqual([...(made.globals ?? [])]);
      const kept = made.kernels.map(({ name }) => name).filter(() => random.chance(0.5));
      const trimmed = dropKernels(before, (name) => kept.includes(name));
      if (trimmed === undefined) {
        expect(kept).toHaveLength(made.kernels.length);
        return;
      }
      const after = readCubin(trimmed.image, "trimmed");
      expect(trimmed.image.length).toBeLessThan(image.length);
      expect(after.kernels.map(({ name }) => name)).toEqual(kept);
      const code = after.elf.sections.flatMap(({ name }) => /^\.text\.(.*)/.exec(name)?.[1] ?? []);
      expect(code.sort()).toEqual(reached(made, kept));
      for (const section of after.elf.sections) {
        if (!/^\.(text|nv\.info|nv\.constant0|nv\.shared|rela\.text)\../.test(section.name))
          continue;
        const original = sectionNamed(before.elf, section.name)!;
        expect(sectionBytes(after.elf, section)).toEqual(sectionBytes(before.elf, original));
        expect(section.offset % section.align).toBe(0);
        expect(section.bytes).toBe(original.bytes);
      }
      expectSameTables(made, before, after, code);
      expect(dropKernels(after, (name) => kept.includes(name))).toBeUndefined();
    });
  });

  test("a cubin that launches kernels itself, is relocatable or not linked stays whole", () => {
    const kernels = [
      { name: "a", bytes: 64 },
      { name: "b", bytes: 64 },
    ];
    const launcher = {
      arch: 90,
      seed: 1,
      kernels,
      functions: [{ name: "cudaLaunchDevice", bytes: 16 }],
    };
    const launching = readCubin(makeCubin(launcher), "made");
    expect(launching.whole).toContain("cudaLaunchDevice");
    expect(dropKernels(launching, () => false)).toBeUndefined();
    const image = makeCubin({ arch: 90, seed: 1, kernels });
    image[16] = 1;
    expect(readCubin(image, "made").whole).toBe("it is relocatable");
  });
});

test("names that overlap a thousand times are refused before they fill memory", () => {
  const name = "n".repeat(60_000);
  const globals = Array.from({ length: 3000 }, (_, n) => `g${n}`);
  const image = makeCubin({ arch: 90, seed: 1, kernels: [{ name, bytes: 16 }], globals });
  const { elf } = readCubin(image, "made");
  const table = sectionNamed(elf, ".symtab")!;
  const view = new DataView(image.buffer);
  const long = view.getUint32(table.offset + table.bytes - 24, true);
  for (let at = table.offset; at < table.offset + table.bytes; at += 24)
    view.setUint32(at, long, true);
  expect(() => readCubin(image, "made")).toThrow("the names of .symtab overlap too often");
});

describe("packing", () => {
  test("an image comes out of every packing as it went in", () => {
    forSeeds(60, (random) => {
      const image = new Uint8Array(random.integer(1, 5000));
      for (let at = 0; at < image.length; at++)
        image[at] = random.chance(0.8) ? (image[at - 1] ?? 7) : random.integer(0, 255);
      expect(unpack(packLz4(image), "lz4", image.length)).toEqual(image);
      const zstd = Bun.zstdCompressSync(image, { level: random.integer(1, 19) });
      expect(new Uint8Array(unpack(zstd, "zstd", image.length))).toEqual(image);
      expect(unpack(image, "none", image.length)).toEqual(image);
      expect(() => unpack(zstd, "zstd", image.length + 1)).toThrow(UnpackError);
      expect(() => unpack(packLz4(image), "lz4", image.length + 1)).toThrow(UnpackError);
    });
  });

  test("matches that reach into what they write repeat with their period", () => {
    // Three literals, then 4 + 8 bytes from three back, then a last literal.
    const block = Uint8Array.from([0x38, 97, 98, 99, 3, 0, 0x10, 33]);
    expect(Buffer.from(unpack(block, "lz4", 16)).toString()).toBe("abcabcabcabcabc!");
  });

  test("sizes that nothing could unpack to are refused before memory is taken", () => {
    const frame = Bun.zstdCompressSync(new Uint8Array(64));
    for (const bytes of [2 ** 31, 2 ** 40, Number.MAX_SAFE_INTEGER])
      expect(() => unpack(frame, "zstd", bytes)).toThrow("claim to hold");
    const bomb = Bun.zstdCompressSync(new Uint8Array(2 ** 26));
    expect(() => unpack(bomb, "zstd", 2 ** 26)).toThrow("claim to hold");
  });
});

describe("containers", () => {
  const image = (seed: number) => {
    const kernels = [
      { name: `k${seed}`, bytes: 640 },
      { name: "shared", bytes: 320 },
    ];
    return makeCubin({ arch: 90, seed, kernels });
  };

  test("are read with padding between them; what is none is opaque", () => {
    const one = makeContainer([{ image: image(1), arch: 90, packing: "lz4" }]);
    const two = makeContainer([
      { image: image(2), arch: 90, variant: "a" },
      {
        image: Buffer.from(".entry kx()\0"),
        kind: 1,
        arch: 100,
        headerBytes: 112,
        packing: "zstd",
      },
    ]);
    const junk = Buffer.from("not a container at all, whatever it is");
    const section = Buffer.concat([one, new Uint8Array(24), two, junk]);
    const { containers, opaque } = readFatbins(section, "made");
    expect(containers.map(({ offset, bytes }) => [offset, bytes])).toEqual([
      [0, one.length],
      [one.length + 24, two.length],
    ]);
    expect(opaque).toEqual([
      { offset: section.length - junk.length, bytes: junk.length, reason: expect.any(String) },
    ]);
    const entries = containers.flatMap(({ entries }) => [...entries]);
    const kernels = entries.map((entry) => contentsOf(section, entry, "made").kernels);
    expect(kernels.map((list) => list.map(({ name }) => name))).toEqual([
      ["k1", "shared"],
      ["k2", "shared"],
      ["kx"],
    ]);
  });

  test("images are trimmed and packed anew; what would grow stays", () => {
    forSeeds(40, (random) => {
      const packing = random.pick(["none", "lz4", "zstd"] as const);
      const made = randomCubin(random);
      const section = makeContainer([{ image: makeCubin(made), arch: 90, packing }]);
      const entry = readFatbins(section, "made").containers[0].entries[0];
      const kernels = made.kernels.map(({ name }) => name).filter(() => random.chance(0.5));
      const recompress = random.pick([undefined, 1, 19]);
      const { content, dropped } = editEntry(section, entry, { kernels, recompress }, "made");
      if (content === undefined) return expect(dropped).toEqual([]);
      expect(content.length).toBeLessThan(entry.headerBytes + entry.paddedBytes);
      expect(content.length % 8).toBe(0);
      // A driver reads one packing: both flags at once would name two.
      const flags = new DataView(content.buffer).getUint32(40, true) & 0xa000;
      expect([0, 0x8000]).toContain(flags);
      const again = Buffer.concat([section.subarray(0, 16), content]);
      again.writeUInt32LE(content.length, 8);
      const read = readFatbins(again, "again").containers[0].entries[0];
      expect(contentsOf(again, read, "again").kernels.map(({ name }) => name)).toEqual(
        made.kernels.map(({ name }) => name).filter((name) => !dropped.includes(name)),
      );
      expect(imageOf(again, read, "again")!.length).toBeLessThanOrEqual(entry.rawBytes);
    });
  });

  test("an image that is packed as tightly as can be is not packed again", () => {
    const made = makeCubin({ arch: 90, seed: 1, kernels: [{ name: "noise", bytes: 20_000 }] });
    const section = makeContainer([{ image: made, arch: 90, packing: "zstd" }]);
    const entry = readFatbins(section, "made").containers[0].entries[0];
    expect(editEntry(section, entry, { recompress: 1 }, "made")).toEqual({ dropped: [] });
  });

  test("kinds and flags that nobody knows are named, and their images left alone", () => {
    const entries: MadeEntry[] = [
      { image: image(1), arch: 90, kind: 0x40 },
      { image: image(1), arch: 90, moreFlags: 0x4000000 },
      { image: image(1), arch: 90, moreFlags: 0x10000 },
    ];
    const section = makeContainer(entries);
    const read = readFatbins(section, "made").containers[0].entries;
    expect(read.map(({ kind, unknownFlags }) => [kind, unknownFlags])).toEqual([
      ["unknown", 0],
      ["cubin", 0x4000000],
      ["unknown", 0],
    ]);
    expect(contentsOf(section, read[0], "made").unreadable).toBe("its kind is not plain");
    expect(neededBy(read, 80)).toEqual(new Set(read));
  });
});

describe("a GPU takes", () => {
  const entry = (name: string): Entry => {
    const [, prefix, arch, variant] = /^(sm|compute|lto)_(\d+)([af]?)$/.exec(name)!;
    const kind = prefix === "sm" ? "cubin" : prefix === "lto" ? "lto" : "ptx";
    return { kind, arch: Number(arch), variant, unknownFlags: 0 } as Entry;
  };
  const cases: [gpu: string, held: string, taken: string][] = [
    ["sm_90", "sm_80 sm_90 sm_100", "sm_90"],
    ["sm_90a", "sm_80 sm_90 sm_100", "sm_90"],
    ["sm_90", "sm_90 sm_90a", "sm_90 sm_90a"],
    ["sm_86", "sm_80 sm_86 sm_90", "sm_86"],
    ["sm_80", "sm_86 compute_80", "compute_80"],
    ["sm_89", "sm_80 sm_86 sm_90", "sm_86"],
    ["sm_89", "sm_75 compute_75", "compute_75"],
    ["sm_90", "sm_80 compute_70 compute_80 compute_100", "compute_80"],
    ["sm_90", "sm_90 compute_90", "sm_90"],
    ["sm_90", "sm_80 lto_80 lto_90 compute_80", "lto_90 compute_80"],
    ["sm_103", "sm_100 sm_100a sm_100f sm_103a", "sm_100f sm_103a"],
    ["sm_103", "sm_100 sm_100a sm_100f", "sm_100 sm_100f"],
    ["sm_120", "sm_100f sm_100 compute_100a compute_100f compute_90", "compute_90"],
    ["sm_121", "sm_120f sm_120a", "sm_120f"],
    ["sm_75", "sm_80 compute_80", ""],
  ];
  test.each(cases)("%s of %s: %s", (gpu, held, taken) => {
    const entries = held.split(" ").map(entry);
    const found = neededBy(entries, parseTarget(gpu));
    const names = held.split(" ").filter((_, at) => found.has(entries[at]));
    expect(names.sort()).toEqual(taken.split(" ").filter(Boolean).sort());
  });

  test.each(["", "sm_", "hopper", "sm_9", "sm_90b", "sm_1000"])("%j is no GPU", (text) => {
    expect(() => parseTarget(text)).toThrow("arch must be GPU architectures such as sm_90");
  });
});
