/** Libraries that a linker made: shrunk, loaded, called and restored. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sectionBytes, sectionNamed } from "../../../src/debloat/elf/elf.ts";
import { contentsOf } from "../../../src/debloat/fatbin/contents.ts";
import { archName } from "../../../src/debloat/fatbin/fatbin.ts";
import { inspectLibrary } from "../../../src/debloat/inspect/inspect.ts";
import { type Library, readLibrary, shrunkMarkBytes } from "../../../src/debloat/library.ts";
import { Pool } from "../../../src/debloat/pool/pool.ts";
import {
  emptyProfile,
  type Profile,
  type ProfiledLibrary,
} from "../../../src/debloat/profile/profile.ts";
import type { ShrinkOptions } from "../../../src/debloat/shrink/options.ts";
import { restoreFile } from "../../../src/debloat/shrink/restore.ts";
import { shrinkLibrary } from "../../../src/debloat/shrink/shrink.ts";
import { readSidecar } from "../../../src/debloat/shrink/sidecar.ts";
import { verifyLibrary } from "../../../src/debloat/verify/verify.ts";
import { type Random, seeded } from "../../support/random.ts";
import { makeCubin } from "../support/make-cubin.ts";
import {
  makeContainer,
  makeLibrary,
  type MadeLibrary,
  temporaryFolder,
  zig,
} from "../support/make-library.ts";

const minutes = 60_000;
const containerMagic = 0xba55ed50;
const archs = [80, 90, 100, 120];
let folder: string;
let caller: string;
let plain: string;
let pinned: string;
using pool = new Pool(0);

const kernelsOf = (n: number) => [
  { name: `add${n}`, bytes: 1600, calls: ["helper"] },
  { name: `multiply${n}`, bytes: 5120 },
  { name: "everywhere", bytes: 3200 },
];

function cubin(arch: number, n: number): Uint8Array {
  const functions = [{ name: "helper", bytes: 320 }];
  return makeCubin({ arch, seed: 100 * arch + n, kernels: kernelsOf(n), functions });
}

function container(n: number): Uint8Array {
  const packing = (["zstd", "none", "lz4"] as const)[n % 3];
  return makeContainer(archs.map((arch) => ({ image: cubin(arch, n), arch, packing })));
}

const containers = Array.from({ length: 6 }, (_, n) => container(n));
const made: MadeLibrary = { loaded: containers, relocatable: containers, spareFunctions: 600 };

beforeAll(async () => {
  folder = temporaryFolder("shrink");
  plain = join(folder, "plain", "libplain.so");
  pinned = join(folder, "pinned", "libpinned.so");
  await Promise.all([
    makeLibrary(plain, made),
    makeLibrary(pinned, { ...made, pinned: 2, flags: ["-Wl,-z,max-page-size=65536"] }),
    buildCaller(),
  ]);
}, 5 * minutes);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A program that loads a library at once and prints what its functions return. */
async function buildCaller(): Promise<void> {
  caller = join(folder, "caller");
  const source = `
    #include <dlfcn.h>
    #include <stdio.h>
    #include <stdlib.h>
    int main(int count, char **words) {
      void *library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
      if (library == NULL) return puts(dlerror()), 1;
      for (int at = 2; at + 1 < count; at += 2) {
        unsigned (*function)(unsigned long) = dlsym(library, words[at]);
        if (function == NULL) return puts(dlerror()), 2;
        printf("%u ", function(atol(words[at + 1])));
      }
      return 0;
    }`;
  await Bun.write(`${caller}.c`, source);
  await zig("cc", "-target", "x86_64-linux-gnu", "-o", caller, `${caller}.c`);
}

/** What functions of a library return, by name and argument. */
function call(library: string, ...calls: [name: string, argument: number][]): string {
  const words = calls.flatMap(([name, argument]) => [name, String(argument)]);
  const { exitCode, stdout } = Bun.spawnSync([caller, library, ...words]);
  return exitCode === 0 ? stdout.toString().trim() : `failed: ${stdout}`;
}

/** Every container is where its pointer says, and code and data work. */
function expectToWork(library: string, loaded = containers.length): void {
  const calls = Array.from({ length: loaded }, (_, n) => ["container", n] as [string, number]);
  const more = Array.from({ length: loaded }, (_, n) => ["relocatable", n] as [string, number]);
  const said = call(library, ["answer", 0], ...calls, ...more);
  expect(said).toBe(["42", ...Array(2 * loaded).fill(containerMagic)].join(" "));
}

/** A shrunk library without its mark, read like any other. */
async function read(path: string): Promise<Library> {
  const bytes = await Bun.file(path).bytes();
  return readLibrary(bytes.subarray(0, bytes.length - shrunkMarkBytes), path);
}

/** Names of images and kernels that are left, a list each container. */
function leftIn({ fatbins, file }: Library, section = ".nv_fatbin"): string[][] {
  const source = fatbins.find((fatbin) => fatbin.section.name === section)!;
  return source.containers.map(({ entries }) =>
    entries.map((entry) => {
      const kernels = contentsOf(source.data, entry, file).kernels.map(({ name }) => name);
      return `${archName(entry)}: ${kernels.join(" ")}`;
    }),
  );
}

/** Shrinks into a folder of its own and brings the original back. */
async function shrink(library: string, options: ShrinkOptions) {
  const out = join(folder, `out${outputs++}`);
  const [shrunk, sidecar, back] = ["lib.so", "lib.side", "back.so"].map((name) => join(out, name));
  const report = await shrinkLibrary(library, shrunk, { ...options, sidecar }, pool);
  expect(statSync(shrunk).size).toBe(report.after.file);
  expect(statSync(shrunk).mode).toBe(statSync(library).mode);
  restoreFile(shrunk, sidecar, back);
  const [original, restored] = await Promise.all([library, back].map((f) => Bun.file(f).bytes()));
  expect(Buffer.from(restored).equals(original)).toBe(true);
  expect(statSync(back).mode).toBe(statSync(library).mode);
  return { report, shrunk: shrunk, sidecar: sidecar };
}
let outputs = 0;

function profileOf(library: Library, used: Partial<ProfiledLibrary>): Profile {
  const nothing = { kernels: [], cubins: [], globals: [], pages: [], functions: [] };
  const known = { path: library.file, bytes: library.elf.bytes.length, ...nothing, ...used };
  return { ...emptyProfile(), libraries: { [library.buildId!]: known } };
}

const originalOf = (path: string) => readLibrary(Bun.mmap(path), path);

describe("by architecture", () => {
  test("images for other GPUs go, and the file loses their pages", async () => {
    const { report, shrunk } = await shrink(plain, { arch: ["sm_90"] });
    expectToWork(shrunk);
    const left = leftIn(await read(shrunk));
    expect(left).toEqual(
      containers.map((_, n) => [
        `sm_90: ${kernelsOf(n)
          .map(({ name }) => name)
          .join(" ")}`,
      ]),
    );
    const { before, after } = report;
    expect(after.fatbin).toBeLessThan(0.26 * before.fatbin);
    // All but a page of each cut and one for the table of segments.
    expect(before.file - after.file).toBeGreaterThan(1.4 * before.fatbin - 4 * 4096);
  });

  test("several GPUs keep an image each; a traced GPU that no image is for keeps none", async () => {
    const both = await shrink(plain, { arch: ["sm_86", "sm_90a"] });
    expectToWork(both.shrunk);
    const { fatbins } = await read(both.shrunk);
    for (const { entries } of fatbins[0].containers)
      expect(entries.map(archName)).toEqual(["sm_80", "sm_90"]);
    const run = { command: [], date: "", host: "off", gpu: "sm_70", driver: null, cuda: null };
    const profile = { ...emptyProfile(), runs: [run] } as Profile;
    const none = await shrink(plain, { profile, level: "arch" });
    expectToWork(none.shrunk);
    expect(leftIn(await read(none.shrunk))).toEqual(containers.map(() => []));
    expect(none.report.after.fatbin).toBe(16 * containers.length);
  });

  test("a container stays that nothing refers to, a symbol names, or something points into", async () => {
    const path = join(folder, "kept", "libkept.so");
    const offset = (n: number) =>
      containers.slice(0, n).reduce((sum, { length }) => sum + length, 0);
    const more = [
      ".globl fatbin_of_others",
      `.set fatbin_of_others, fatbins + ${offset(1)}`,
      ".data",
      `.quad fatbins + ${offset(3) + 16}`,
    ];
    await makeLibrary(path, { loaded: containers, unreferenced: [0], more });
    const { report, shrunk } = await shrink(path, { arch: ["sm_90"] });
    const plans = report.device[0].containers;
    expect(plans.map(({ pinned }) => pinned)).toEqual([
      "pinned: no relocated pointer refers to it",
      "pinned: a symbol that others see names it",
      undefined,
      "pinned: something points into it",
      undefined,
      undefined,
    ]);
    const { fatbins } = await read(shrunk);
    const left = fatbins[0].containers.map((found) => [found.offset, found.entries.length]);
    for (const n of [0, 1, 3]) expect(left).toContainEqual([offset(n), 4]);
    expect(left.filter(([, entries]) => entries === 1)).toHaveLength(3);
    const calls = containers.slice(1).map((_, n) => ["container", n] as [string, number]);
    expect(call(shrunk, ...calls)).toBe(Array(5).fill(containerMagic).join(" "));
  });

  test("what code points at stays where it is; the rest moves around it", async () => {
    const { report, shrunk } = await shrink(pinned, { arch: ["sm_90"] });
    expectToWork(shrunk);
    const library = await read(shrunk);
    const fatbin = library.fatbins.find(({ section }) => section.name === ".nv_fatbin")!;
    const offset = containers.slice(0, 2).reduce((sum, { length }) => sum + length, 0);
    const kept = fatbin.containers.find((found) => found.offset === offset)!;
    expect(kept.entries.map(archName)).toEqual(archs.map((arch) => `sm_${arch}`));
    expect(fatbin.opaque).toEqual([]);
    expect(fatbin.containers).toHaveLength(containers.length);
    const planned = report.device.find(({ name }) => name === ".nv_fatbin")!.containers;
    expect(planned.map(({ pinned }) => pinned)).toEqual([
      undefined,
      undefined,
      "pinned: code computes its address",
      undefined,
      undefined,
      undefined,
    ]);
  });
});

describe("by use", () => {
  test("images without a used kernel go, and unused kernels of the others", async () => {
    const used = { kernels: ["add1", "multiply4"] };
    const profile = profileOf(originalOf(plain), used);
    const options = { arch: ["sm_90"], profile };
    const whole = await shrink(plain, { ...options, level: "cubin" });
    expectToWork(whole.shrunk);
    const all = "add1 multiply1 everywhere";
    expect(leftIn(await read(whole.shrunk))).toEqual([
      [],
      [`sm_90: ${all}`],
      [],
      [],
      [`sm_90: ${all.replaceAll("1", "4")}`],
      [],
    ]);
    const fine = await shrink(plain, options);
    expectToWork(fine.shrunk);
    expect(leftIn(await read(fine.shrunk))).toEqual([
      [],
      ["sm_90: add1"],
      [],
      [],
      ["sm_90: multiply4"],
      [],
    ]);
    expect(fine.report.after.fatbin).toBeLessThan(whole.report.after.fatbin);
    expect([...fine.report.droppedKernels.values()]).toEqual([
      ["multiply1", "everywhere"],
      ["add4", "everywhere"],
    ]);
  });

  test("a name in many images counts where a run loaded one of them", async () => {
    const library = originalOf(plain);
    const source = library.fatbins[0];
    const entry = source.containers[3].entries[1];
    const { bytes, crc32 } = contentsOf(source.data, entry, plain);
    const profile = profileOf(library, { kernels: ["everywhere"], cubins: [{ bytes, crc32 }] });
    const { shrunk } = await shrink(plain, { arch: ["sm_90"], profile });
    const only = containers.map((_, n) => (n === 3 ? ["sm_90: everywhere"] : []));
    expect(leftIn(await read(shrunk))).toEqual(only);
    const unplaced = profileOf(library, { kernels: ["everywhere"] });
    const all = await shrink(plain, { arch: ["sm_90"], profile: unplaced });
    expect(leftIn(await read(all.shrunk))).toEqual(containers.map(() => ["sm_90: everywhere"]));
  });

  test("without a profile a pattern says what is used; every image is packed anew", async () => {
    const { shrunk } = await shrink(plain, { arch: ["sm_90"], keep: /^add[02]$/g, recompress: 19 });
    expectToWork(shrunk);
    expect(leftIn(await read(shrunk))).toEqual([["sm_90: add0"], [], ["sm_90: add2"], [], [], []]);
  });

  test("an image that nobody can judge stays whole, and the plan says why", async () => {
    const odd = join(folder, "odd", "libodd.so");
    const kernels = kernelsOf(0);
    const launching = { arch: 90, seed: 1, kernels, functions: [{ name: "helper", bytes: 64 }] };
    const launcher = [...launching.functions, { name: "cudaLaunchDevice", bytes: 16 }];
    const images = [
      { image: makeCubin({ ...launching, functions: launcher }), arch: 90 },
      { image: cubin(90, 0), arch: 90, moreFlags: 0x8000000 },
      { image: cubin(90, 0), arch: 90, kind: 0x40 },
      { image: Buffer.from("no cubin at all"), arch: 90 },
      { image: cubin(90, 0), arch: 90 },
    ];
    await makeLibrary(odd, { loaded: images.map((image) => makeContainer([image])) });
    const { report, shrunk } = await shrink(odd, { arch: ["sm_90"], keep: /^add0$/ });
    const plans = report.device[0].containers.map(({ entries }) => entries[0]);
    expect(plans.map(({ action }) => action)).toEqual(["keep", "keep", "keep", "keep", "trim"]);
    expect(plans.map(({ reason }) => reason)).toEqual([
      expect.stringContaining("whole, as it launches kernels itself (cudaLaunchDevice)"),
      "flags 0x8000000 are not known",
      "kind 64 is not known",
      expect.stringContaining("unreadable: it is not an ELF file"),
      "1 of its 3 kernels and 0 variables are used",
    ]);
    const said = call(shrunk, ...images.map((_, n) => ["container", n] as [string, number]));
    expect(said).toBe(images.map(() => containerMagic).join(" "));
  });

  test("random sets of kernels: the file falls, loads and comes back", async () => {
    const library = originalOf(plain);
    const names = containers.flatMap((_, n) => kernelsOf(n).map(({ name }) => name));
    for (let seed = 1; seed <= 12; seed++) {
      const random: Random = seeded(seed);
      const kernels = names.filter(() => random.chance(0.3));
      const { report, shrunk } = await shrink(random.pick([plain, plain, pinned]), {
        arch: [`sm_${random.pick(archs)}`],
        keep: new RegExp(`^(${kernels.join("|")})$`),
        strip: random.chance(0.5),
        dropRel: random.chance(0.5),
      });
      expectToWork(shrunk);
      expect(report.after.file).toBeLessThan(library.elf.bytes.length);
    }
  });
});

describe("besides device code", () => {
  test("symbols and debug information go", async () => {
    const { report, shrunk } = await shrink(plain, { strip: true });
    expectToWork(shrunk);
    const { elf } = await read(shrunk);
    expect(sectionNamed(elf, ".symtab")).toBeUndefined();
    expect(report.before.file - report.after.file).toBeGreaterThan(report.strippedBytes - 4096);
    expect(report.strippedBytes).toBeGreaterThan(10_000);
  });

  test("relocatable images go when an image linked from them is there", async () => {
    const { report, shrunk } = await shrink(plain, { arch: ["sm_90"], dropRel: true });
    expectToWork(shrunk);
    expect(leftIn(await read(shrunk), "__nv_relfatbin")).toEqual(containers.map(() => []));
    expect(report.after.relocatable).toBe(16 * containers.length);
    const lonely = join(folder, "lonely", "liblonely.so");
    const loaded = [makeContainer([{ image: cubin(80, 0), arch: 80 }])];
    await makeLibrary(lonely, { loaded, relocatable: containers.slice(0, 1) });
    const kept = await shrink(lonely, { arch: ["sm_90"], dropRel: true });
    const reasons = kept.report.device[1].containers[0].entries.map(({ reason }) => reason);
    expect(reasons).toContain("no linked image is there for sm_90");
    expectToWork(kept.shrunk, 1);
  });

  test("host pages that no run touched go; the sidecar has them where they were", async () => {
    const library = originalOf(plain);
    const text = sectionNamed(library.elf, ".text")!;
    const first = Math.floor(text.address / 4096);
    const profile = profileOf(library, { pages: [[first, 3]], functions: [[text.address, 8]] });
    const { report, shrunk, sidecar } = await shrink(plain, { profile, host: "pages", arch: [] });
    expectToWork(shrunk);
    expect(call(shrunk, ["spare_1", 0])).toBe("1");
    // What its header calls .text is what is left of it in one piece.
    const { elf } = await read(shrunk);
    const left = sectionBytes(elf, sectionNamed(elf, ".text")!);
    expect(left.length).toBeLessThan(0.2 * text.bytes);
    expect(left).toEqual(sectionBytes(library.elf, text).subarray(0, left.length));
    // Its page is not there: the process dies, which the pager is for.
    expect(call(shrunk, ["spare_590", 0])).toStartWith("failed");
    expect(report.after.text).toBeLessThan(0.2 * report.before.text);
    const { pages } = readSidecar(await Bun.file(sidecar).bytes(), sidecar);
    const held = await Bun.file(sidecar).bytes();
    expect(pages.reduce((sum, [, bytes]) => sum + bytes, 0)).toBe(
      report.before.text - report.after.text,
    );
    for (const [address, bytes, at] of pages) {
      expect([address % 4096, bytes % 4096, at % 4096]).toEqual([0, 0, 0]);
      const from = address - text.address + text.offset;
      const original = library.elf.bytes.slice(from, bytes);
      expect(Buffer.from(held.subarray(at, at + bytes)).equals(original)).toBe(true);
    }
  });

  test("all at once, with threads", async () => {
    using threads = new Pool(2);
    const text = sectionNamed(originalOf(plain).elf, ".text")!;
    const used = {
      kernels: ["add1"],
      pages: [[Math.floor(text.address / 4096), 2]] as [number, number][],
    };
    const options: ShrinkOptions = {
      arch: ["sm_90"],
      profile: profileOf(originalOf(plain), used),
      host: "pages",
      strip: true,
      dropRel: true,
      recompress: 9,
    };
    const [one, two] = ["one", "two"].map((name) => join(folder, "threads", name));
    const sidecars = [`${one}.side`, `${two}.side`];
    await shrinkLibrary(plain, one, { ...options, sidecar: sidecars[0] }, pool);
    const seen: number[] = [];
    const onProgress = (done: number) => void seen.push(done);
    await shrinkLibrary(plain, two, { ...options, sidecar: sidecars[1], onProgress }, threads);
    expect(seen.length).toBeGreaterThan(0);
    expectToWork(two);
    expect(await Bun.file(one).bytes()).toEqual(await Bun.file(two).bytes());
    expect(await Bun.file(sidecars[0]).bytes()).toEqual(await Bun.file(sidecars[1]).bytes());
  });

  test("a file that was cut short after it was mapped", async () => {
    using threads = new Pool(1);
    const cut = join(folder, "cut-short.so");
    writeFileSync(cut, readFileSync(plain).subarray(0, 1000));
    const [source] = originalOf(plain).fatbins;
    const entries = source.containers.flatMap((container) => container.entries);
    const job = { kind: "look", section: source.section, entries } as const;
    const problems = async (path: string) =>
      (await threads.run(job, new Uint8Array(), path)).map(({ unreadable }) => unreadable);
    expect(await problems(cut)).toContain("it was cut short while it was read");
    // The thread goes on.
    expect(await problems(plain)).not.toContain("it was cut short while it was read");
  });

  test("readelf has nothing to say about what comes out", async () => {
    const readelf = Bun.which("readelf");
    if (readelf === null) return;
    const { shrunk } = await shrink(plain, { arch: ["sm_90"], strip: true, dropRel: true });
    const { stderr } = Bun.spawnSync([readelf, "-aW", shrunk]);
    expect(stderr.toString()).toBe("");
  });
});

/** What shrink may be told beside a profile or without one, an option each. */
type Told = Exclude<keyof ShrinkOptions, "profile" | "sidecar" | "onProgress">;
const told: Record<Told, ShrinkOptions[]> = {
  arch: [{ arch: ["sm_90"] }],
  level: [{ level: "arch" }, { level: "cubin" }, { level: "kernel" }],
  keep: [{ keep: /multiply[02]/ }],
  host: [{ host: "pages" }],
  strip: [{ strip: true }],
  dropRel: [{ dropRel: true }],
  recompress: [{ recompress: 3 }],
};
const optionPairs = (Object.keys(told) as Told[]).flatMap((a, i, all) =>
  all.slice(i + 1).map((b) => [a, b] as const),
);

describe.each(["without", "beside"])("pairs of options %s a profile", (where) => {
  test.each(optionPairs)("%s and %s", async (a, b) => {
    const library = originalOf(plain);
    const first = Math.floor(sectionNamed(library.elf, ".text")!.address / 4096);
    const used = { kernels: ["add1", "everywhere"], pages: [[first, 2]] as [number, number][] };
    const base = where === "beside" ? { profile: profileOf(library, used) } : {};
    for (const options of told[a].flatMap((one) =>
      told[b].map((other): ShrinkOptions => ({ ...base, ...one, ...other })),
    )) {
      const { profile, keep, host, level = "arch" } = options;
      if (profile === undefined && (host === "pages" || (level !== "arch" && !keep))) {
        await expect(shrink(plain, options)).rejects.toThrow(/must be .* Fix: give --profile/);
        continue;
      }
      const { shrunk, sidecar } = await shrink(plain, options);
      expectToWork(shrunk);
      expect(verifyLibrary(plain, shrunk, sidecar).flatMap((check) => check.problems)).toEqual([]);
    }
  });
});

test("a dry run decides the same and writes nothing", async () => {
  const before = readdirSync(folder);
  const options = { arch: ["sm_90"], strip: true };
  const dry = await shrinkLibrary(plain, undefined, options, pool);
  expect(readdirSync(folder)).toEqual(before);
  const { report } = await shrink(plain, options);
  expect(dry.after).toEqual(report.after);
  expect(dry.device).toEqual(report.device);
});

test("what inspect says an option saves is what it saves", async () => {
  const { savings, archs: rows, functions, bytes } = await inspectLibrary(plain, pool);
  const saving = (option: string) => savings.find((found) => found.option === option)!.bytes;
  for (const [option, chosen] of [
    ["--arch sm_90", { arch: ["sm_90"] }],
    ["--strip", { strip: true }],
    ["--drop-rel", { dropRel: true }],
  ] as const) {
    const { report } = await shrink(plain, chosen);
    expect(report.after.file).toBe(bytes + shrunkMarkBytes - saving(option));
  }
  const row = rows.find(({ section, arch }) => section === ".nv_fatbin" && arch === "sm_100")!;
  expect(row).toMatchObject({ images: 6, kernels: 18, none: 2, lz4: 2, zstd: 2 });
  expect(functions.count).toBeGreaterThanOrEqual(604);
});

test("a shrunk library can be looked into", async () => {
  const { shrunk, report } = await shrink(plain, { arch: ["sm_90"] });
  const { bytes, shrunkFrom, archs: rows } = await inspectLibrary(shrunk, pool);
  expect({ bytes, shrunkFrom }).toEqual({
    bytes: report.after.file,
    shrunkFrom: report.before.file,
  });
  expect(rows.map(({ arch }) => arch)).toEqual(["sm_90", "sm_90"]);
});

test("nothing is left of a run that fails", async () => {
  const out = join(folder, "failed", "lib.so");
  const sidecar = join(folder, "nowhere", "x");
  await Bun.write(join(folder, "nowhere"), "a file where a folder should be");
  await expect(shrinkLibrary(plain, out, { sidecar }, pool)).rejects.toThrow();
  expect(existsSync(out)).toBe(false);
});
