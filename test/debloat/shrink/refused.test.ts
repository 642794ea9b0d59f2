/** What debloat does not work on, and what it says then; the input is never written to. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { asDebloatError, writeAtomically } from "../../../src/debloat/files.ts";
import { readLibrary } from "../../../src/debloat/library.ts";
import { Pool } from "../../../src/debloat/pool/pool.ts";
import { emptyProfile } from "../../../src/debloat/profile/profile.ts";
import type { ShrinkOptions } from "../../../src/debloat/shrink/options.ts";
import { restoreFile } from "../../../src/debloat/shrink/restore.ts";
import { shrinkLibrary } from "../../../src/debloat/shrink/shrink.ts";
import { DebloatError, OptionError } from "../../../src/errors.ts";
import { makeCubin } from "../support/make-cubin.ts";
import { makeContainer, makeLibrary, temporaryFolder } from "../support/make-library.ts";

const minutes = 60_000;
let folder: string;
let library: string;
let bytes: Uint8Array<ArrayBuffer>;
using pool = new Pool(0);

beforeAll(async () => {
  folder = temporaryFolder("refused");
  library = join(folder, "made", "libmade.so");
  const image = makeCubin({ arch: 90, seed: 1, kernels: [{ name: "a", bytes: 9000 }] });
  const entries = [90, 100].map((arch) => ({ image, arch }));
  await makeLibrary(library, { loaded: [makeContainer(entries)], spareFunctions: 30 });
  bytes = await Bun.file(library).bytes();
}, 5 * minutes);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The error of reading damaged bytes. */
function refusal(data: Uint8Array): string {
  try {
    readLibrary(data, "lib.so");
  } catch (error) {
    expect(error).toBeInstanceOf(DebloatError);
    expect((error as DebloatError).file).toBe("lib.so");
    return (error as Error).message;
  }
  return "read";
}

function changed(at: number, value: number): Uint8Array<ArrayBuffer> {
  const copy = Uint8Array.from(bytes);
  copy[at] = value;
  return copy;
}

/** Without what the loader reads: as a static program has it. */
function withoutDynamic(): Uint8Array {
  const { elf } = readLibrary(bytes, "lib.so");
  const { index } = elf.segments.find(({ type }) => type === 2)!;
  return changed(elf.segmentsOffset + 56 * index, 0);
}

/** With a segment that is smaller in memory than in the file. */
function withoutMemory(): Uint8Array {
  const { elf } = readLibrary(bytes, "lib.so");
  const { index } = elf.segments.find(({ type, fileBytes }) => type === 1 && fileBytes > 4096)!;
  const copy = Uint8Array.from(bytes);
  new DataView(copy.buffer).setBigUint64(elf.segmentsOffset + 56 * index + 40, 8n, true);
  return copy;
}

describe("files", () => {
  test("that are no shared libraries of 64-bit Linux", () => {
    const cases: [Uint8Array, string][] = [
      [Buffer.from("#!/bin/sh\n".repeat(20)), "lib.so: it is not an ELF file. Fix: give a shared"],
      [bytes.subarray(0, 40), "it is not an ELF file"],
      [changed(4, 1), "it is a 32-bit ELF file"],
      [changed(5, 2), "it is a big-endian ELF file"],
      [changed(16, 2), "it is not a shared library but a static program or an object file"],
      [withoutDynamic(), "a static program"],
      [withoutMemory(), "its segments overlap or are out of order"],
      [changed(18, 243), "it is for machine 243. Fix: give a library of x86-64 or aarch64."],
      [bytes.subarray(0, bytes.length / 2), "are past its end"],
    ];
    for (const [data, message] of cases) expect(refusal(data)).toContain(message);
    expect(refusal(bytes)).toBe("read");
  });

  test("that were shrunk already", async () => {
    const out = join(folder, "twice", "a.so");
    await shrinkLibrary(library, out, { arch: ["sm_90"] }, pool);
    const again = shrinkLibrary(out, join(folder, "twice", "b.so"), { arch: ["sm_90"] }, pool);
    await expect(again).rejects.toThrow(`${out}: it was shrunk already. Fix: give the original`);
  });

  test("that are missing, empty, folders, or may not be read", async () => {
    const path = (name: string) => join(folder, "odd", name);
    mkdirSync(path("folder.so"), { recursive: true });
    writeFileSync(path("empty.so"), "");
    const cases = [
      ["missing.so", "it does not exist. Fix: check the path."],
      ["empty.so", "it is empty. Fix: give a shared library."],
      ["folder.so", "Fix: name a file"],
    ] as const;
    for (const [name, message] of cases) {
      const shrunk = shrinkLibrary(path(name), undefined, {}, pool);
      await expect(shrunk).rejects.toThrow(DebloatError);
      await expect(shrunk).rejects.toThrow(message);
    }
    if (process.getuid?.() === 0) return;
    await Bun.write(path("secret.so"), bytes);
    chmodSync(path("secret.so"), 0);
    const secret = shrinkLibrary(path("secret.so"), undefined, {}, pool);
    await expect(secret).rejects.toThrow("it may not be read or written");
  });
});

describe("outputs", () => {
  test("that are the input, under any name", async () => {
    const alias = join(folder, "made", "alias.so");
    linkSync(library, alias);
    for (const output of [library, alias]) {
      const shrunk = shrinkLibrary(library, output, { arch: ["sm_90"] }, pool);
      await expect(shrunk).rejects.toThrow("it is the input. Fix: write to another folder.");
    }
    const sidecar = shrinkLibrary(library, join(folder, "x.so"), { sidecar: alias }, pool);
    await expect(sidecar).rejects.toThrow("it is the input");
    expect(await Bun.file(library).bytes()).toEqual(bytes);
  });

  test("whose disk is full or read-only: nothing is left, and what was there stays", () => {
    const path = join(folder, "full", "lib.so");
    mkdirSync(join(folder, "full"));
    writeFileSync(path, "before");
    const failures = {
      ENOSPC: "the disk is full",
      EROFS: "is read-only",
      EDQUOT: "quota",
      EIO: "EIO",
    };
    for (const [code, message] of Object.entries(failures)) {
      const fail = () => {
        writeAtomically(path, 0o644, (writer) => {
          writer.write(new Uint8Array(1000));
          throw Object.assign(new Error("no"), { code });
        });
      };
      expect(fail).toThrow(DebloatError);
      expect(fail).toThrow(message);
    }
    expect(readdirSync(join(folder, "full"))).toEqual(["lib.so"]);
    const own = new TypeError("not the file system's");
    expect(asDebloatError(own, path)).toBe(own);
  });

  test("of a sidecar that cannot be written: the library is not written either", async () => {
    const output = join(folder, "half", "lib.so");
    writeFileSync(join(folder, "file"), "");
    mkdirSync(join(folder, "taken.side"));
    for (const sidecar of [join(folder, "file", "x.side"), join(folder, "taken.side")]) {
      const shrunk = shrinkLibrary(library, output, { arch: ["sm_90"], sidecar }, pool);
      await expect(shrunk).rejects.toThrow(DebloatError);
      expect(existsSync(output)).toBe(false);
    }
  });
});

describe("options", () => {
  const profile = emptyProfile();
  const cases: [ShrinkOptions, string][] = [
    [{ arch: ["hopper"] }, 'arch must be GPU architectures such as sm_90 (got "hopper")'],
    [{ level: "kernel" }, "level must be arch without a profile"],
    [{ host: "pages" }, "host must be off without a profile"],
    [{ host: "pages", profile, level: "arch" }, "host must be off without a sidecar"],
    [{ recompress: 23 }, "recompress must be an integer from 1 to 22 (got 23)"],
    [{ archs: ["sm_90"] } as ShrinkOptions, "options.archs must be one of the options arch, "],
    [{ strip: "no" } as unknown as ShrinkOptions, 'strip must be true or false (got "no")'],
  ];
  test.each(cases)("%j", async (options, message) => {
    const shrunk = shrinkLibrary(library, join(folder, "never.so"), options, pool);
    await expect(shrunk).rejects.toThrow(OptionError);
    await expect(shrunk).rejects.toThrow(message);
    expect(existsSync(join(folder, "never.so"))).toBe(false);
  });

  test("GPUs that the library has no code for", async () => {
    const out = join(folder, "none", "lib.so");
    for (const arch of [["sm_50"], ["sm_90", "sm_120"]])
      await expect(shrinkLibrary(library, out, { arch }, pool)).rejects.toThrow(
        `no image for ${arch.at(-1)}; it has sm_90, sm_100. Fix: name GPUs that it has code for`,
      );
    expect(existsSync(out)).toBe(false);
  });

  test("a profile of another build, or of other libraries", async () => {
    const other = { path: "/elsewhere/libmade.so", bytes: 1, kernels: [], cubins: [], globals: [] };
    const rest = { pages: [], functions: [] };
    const known = { ...emptyProfile(), libraries: { abcd: { ...other, ...rest } } };
    const mismatch = shrinkLibrary(library, undefined, { profile: known }, pool);
    await expect(mismatch).rejects.toThrow("the profile was taken with abcd");
    const unknown = shrinkLibrary(library, undefined, { profile }, pool);
    await expect(unknown).rejects.toThrow("the profile has no run that loaded it");
    await shrinkLibrary(library, undefined, { profile: known, level: "arch" }, pool).then(
      () => expect.unreachable(),
      (error) => expect(error.message).toContain("abcd"),
    );
    await shrinkLibrary(library, undefined, { profile, level: "arch" }, pool);
  });
});

test("what a killed run left behind goes at the next", async () => {
  const at = (name: string) => join(folder, "killed", name);
  const ended = Bun.spawnSync(["true"]).pid;
  for (const name of ["a.so", "a.side"]) await Bun.write(at(`${name}.${ended}.0.part`), "half");
  await Bun.write(at(`a.so.${process.pid}.999.part`), "of a run that goes on");
  await shrinkLibrary(library, at("a.so"), { arch: ["sm_90"], sidecar: at("a.side") }, pool);
  const left = ["a.side", "a.so", `a.so.${process.pid}.999.part`];
  expect(readdirSync(join(folder, "killed")).sort()).toEqual(left);
});

describe("restore", () => {
  test("wants the two files that belong together", async () => {
    const path = (name: string) => join(folder, "restore", name);
    const { arch } = { arch: ["sm_90"] };
    await shrinkLibrary(library, path("a.so"), { arch, sidecar: path("a.side") }, pool);
    await shrinkLibrary(library, path("b.so"), { strip: true, sidecar: path("b.side") }, pool);
    const restore = (shrunk: string, sidecar: string, output = "back.so") =>
      restoreFile(path(shrunk), path(sidecar), path(output));
    expect(() => restore("a.so", "b.side")).toThrow("it is not the library that");
    expect(() => restore("a.so", "a.so")).toThrow("it is not a sidecar");
    expect(() => restore("a.so", "a.side", "a.so")).toThrow("it is what is read from");
    expect(() => restore("a.so", "missing.side")).toThrow("it does not exist");
    expect(existsSync(path("back.so"))).toBe(false);
    const touched = Uint8Array.from(await Bun.file(path("a.so")).bytes());
    touched[3000] = touched[3000] ^ 1;
    await Bun.write(path("touched.so"), touched);
    expect(() => restore("touched.so", "a.side")).toThrow("it is not the library that");
    const damaged = Uint8Array.from(await Bun.file(path("a.side")).bytes());
    damaged[5000] = damaged[5000] ^ 1;
    await Bun.write(path("damaged.side"), damaged);
    expect(() => restore("a.so", "damaged.side")).toThrow("what it holds is damaged");
    expect(existsSync(path("back.so"))).toBe(false);
    restore("a.so", "a.side");
    expect(await Bun.file(path("back.so")).bytes()).toEqual(bytes);
  });
});
