/** Libraries of every linker and tool at hand: shrunk, checked, loaded, restored, edited again. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { findDebianIfAny } from "../../../scripts/debian.ts";
import { findPatchelf } from "../../../scripts/toolchain.ts";
import { Pool } from "../../../src/debloat/pool/pool.ts";
import { restoreFile } from "../../../src/debloat/shrink/restore.ts";
import { shrinkLibrary } from "../../../src/debloat/shrink/shrink.ts";
import { verifyLibrary } from "../../../src/debloat/verify/verify.ts";
import { fuzz, shrinkDamaged, tablesOf } from "../support/damage.ts";
import { makeCubin } from "../support/make-cubin.ts";
import {
  makeContainer,
  temporaryFolder,
  writeLibrarySource,
  zig,
} from "../support/make-library.ts";
import { run } from "../support/nvcc.ts";

const minutes = 60_000;
const damagedFiles = process.env["FLASHBUN_DEEP"] === "1" ? 4000 : 60;
const lld = join(import.meta.dir, "../../../.toolchain/zig/ziglang/zig");
const zigProgram = process.env["FLASHBUN_ZIG"] ?? lld;
let folder: string;
let object: string;
let caller: string;
let patchelf: string;
using pool = new Pool(0);

/** How a library is made: a linker with its flags, and what tools do to the result. */
type Step = (file: string) => Promise<unknown>;
interface Build {
  name: string;
  linker: string;
  flags?: string[];
  then?: () => Step[];
}

const programAs = (program: string | null) => (program === null ? undefined : [program]);
const linkers: Record<string, readonly string[] | undefined> = {
  lld: [zigProgram, "ld.lld"],
  bfd: programAs(Bun.which("ld.bfd")),
  gold: programAs(Bun.which("ld.gold")),
  mold: await findDebianIfAny("mold"),
};

/** What auditwheel has patchelf do to a library whose name gets a hash. */
const patches = [
  ["--set-soname", "liblinked-0123456789abcdef.so.1"],
  ["--force-rpath", "--set-rpath", `$ORIGIN/${"a/".repeat(60)}`],
];
const patched: Step = async (file) => {
  for (const patch of patches) await run(patchelf, [...patch, file]);
};
const gnu = (program: string, ...flags: string[]) => {
  const path = Bun.which(program);
  return path === null ? [] : [(file: string) => run(path, [...flags, file])];
};
const stripped = () => gnu("strip");

const builds: Build[] = [
  ...Object.keys(linkers).map((linker) => ({ name: "plain", linker })),
  { name: "RELR", linker: "lld", flags: ["--pack-dyn-relocs=relr"] },
  { name: "RELR", linker: "bfd", flags: ["-z", "pack-relative-relocs"] },
  { name: "RELR", linker: "mold", flags: ["--pack-dyn-relocs=relr"] },
  ...["lld", "bfd", "gold", "mold"].map((linker) => {
    return { name: "64 KiB", linker, flags: ["-z", "max-page-size=65536"] };
  }),
  { name: "one segment for code and constants", linker: "bfd", flags: ["-z", "noseparate-code"] },
  { name: "at an address, as prelinked", linker: "lld", flags: ["--image-base=0x7e0000000"] },
  { name: "patched", linker: "lld", then: () => [patched] },
  { name: "patched", linker: "bfd", then: () => [patched] },
  { name: "stripped, then patched", linker: "bfd", then: () => [...stripped(), patched] },
  { name: "patched, then stripped", linker: "bfd", then: () => [patched, ...stripped()] },
  {
    name: "two sections of fat binaries",
    linker: "bfd",
    then: () => gnu("objcopy", "--rename-section", "__nv_relfatbin=.nv_fatbin"),
  },
  {
    name: ".gnu_debuglink",
    linker: "bfd",
    then: () => gnu("objcopy", `--add-gnu-debuglink=${object}`),
  },
];

beforeAll(async () => {
  folder = temporaryFolder("linkers");
  patchelf = await findPatchelf();
  const kernels = ["some", "other"].map((name) => ({ name, bytes: 24_000 }));
  const packings = ["none", "zstd"] as const;
  const loaded = packings.map((packing) =>
    makeContainer(
      [80, 90].map((arch) => ({ image: makeCubin({ arch, seed: 1, kernels }), arch, packing })),
    ),
  );
  const source = writeLibrarySource(join(folder, "made"), {
    loaded,
    relocatable: loaded,
    spareFunctions: 60,
  });
  object = join(folder, "made.o");
  caller = join(folder, "caller");
  await Promise.all([
    zig("cc", "-target", "x86_64-linux-gnu", "-c", "-o", object, source),
    buildCaller(),
  ]);
}, 5 * minutes);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A program that loads a library and prints what its functions return. */
async function buildCaller(): Promise<void> {
  const source = `
    #include <dlfcn.h>
    #include <stdio.h>
    typedef unsigned (*function)(unsigned long);
    int main(int count, char **words) {
      void *library = dlopen(words[1], RTLD_NOW);
      if (library == NULL) return puts(dlerror()), 1;
      function answer = dlsym(library, "answer"), container = dlsym(library, "container");
      printf("%u %x %x", answer(0), container(0), container(1));
      return 0;
    }`;
  await Bun.write(`${caller}.c`, source);
  await zig("cc", "-target", "x86_64-linux-gnu", "-o", caller, `${caller}.c`);
}

async function expectToWork(library: string): Promise<void> {
  expect(await run(caller, [library])).toBe("42 ba55ed50 ba55ed50");
}

describe.each(builds)("$linker, $name", ({ name, linker, flags = [], then }) => {
  const command = linkers[linker];
  test.skipIf(command === undefined)(
    "shrinks, works, comes back, and can be edited",
    async () => {
      const at = (file: string) => join(folder, linker, name, file);
      const library = at("lib.so");
      await Bun.write(at("here"), "");
      const made = ["-shared", "--build-id=sha1", "--eh-frame-hdr", "-o", library, object];
      await run(command![0], [...command!.slice(1), ...flags, ...made]);
      for (const step of then?.() ?? []) await step(library);
      await expectToWork(library);

      const options = { arch: ["sm_90"], strip: true, sidecar: at("lib.side") };
      const { before, after } = await shrinkLibrary(library, at("small.so"), options, pool);
      expect(after.fatbin).toBeLessThan(0.6 * before.fatbin);
      for (const check of verifyLibrary(library, at("small.so"), at("lib.side")))
        expect(check.problems).toEqual([]);
      await expectToWork(at("small.so"));
      restoreFile(at("small.so"), at("lib.side"), at("back.so"));
      expect(await Bun.file(at("back.so")).bytes()).toEqual(await Bun.file(library).bytes());

      // What packagers do to every library, each by itself.
      for (const edit of [patched, ...stripped()]) {
        copyFileSync(at("small.so"), at("edited.so"));
        await edit(at("edited.so"));
        await expectToWork(at("edited.so"));
      }
      const bytes = await Bun.file(library).bytes();
      await fuzz(damagedFiles, bytes, tablesOf(bytes), shrinkDamaged);
    },
    2 * minutes,
  );
});
