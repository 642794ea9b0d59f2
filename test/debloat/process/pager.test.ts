import { beforeAll, describe, expect, test } from "bun:test";
import { closeSync, copyFileSync, existsSync, mkdirSync, openSync, readFileSync } from "node:fs";
import { rmSync, writeSync } from "node:fs";
import { basename, join } from "node:path";
import { Bytes } from "../../../src/debloat/bytes.ts";
import { readElf, readSymbols, sectionNamed } from "../../../src/debloat/elf/elf.ts";
import { mapFile } from "../../../src/debloat/files.ts";
import { readLibraryId } from "../../../src/debloat/library.ts";
import { Pool } from "../../../src/debloat/pool/pool.ts";
import { companionPath } from "../../../src/debloat/process/companions.ts";
import { emptyProfile } from "../../../src/debloat/profile/profile.ts";
import { shrinkLibrary, sidecarName } from "../../../src/debloat/shrink/shrink.ts";
import { readSidecar } from "../../../src/debloat/shrink/sidecar.ts";
import { makeLibrary, temporaryFolder } from "../support/make-library.ts";
import { compile } from "../support/native.ts";

const folder = temporaryFolder("pager");
const original = join(folder, "libspare.so");
const shrunk = join(folder, "shrunk", "libspare.so");
const sidecars = join(folder, "sidecars");
const program = join(folder, "program");
const functionCount = 4000;
let sidecar: string;
let at: Map<string, number>;

beforeAll(async () => {
  await makeLibrary(original, { loaded: [], spareFunctions: functionCount });
  await compile(program, "pager.c");
  const id = readLibraryId(original)!;
  sidecar = join(sidecars, sidecarName(id, original));
  const elf = readElf(new Bytes(mapFile(original).data, original));
  const symbols = readSymbols(elf, sectionNamed(elf, ".dynsym")!);
  at = new Map(symbols.map(({ name, value }) => [name, value]));
  const profile = emptyProfile();
  const functions: [number, number][] = [[at.get("spare_0")!, 512]];
  profile.libraries[id] = {
    path: original,
    bytes: 1,
    kernels: [],
    cubins: [],
    globals: [],
    pages: [],
    functions,
  };
  const options = { profile, level: "arch", host: "pages", sidecar } as const;
  await shrinkLibrary(original, shrunk, options, new Pool(0));
}, 120_000);

async function run(what: string, environment: Record<string, string> = {}) {
  const log = join(folder, `${what}.log`);
  rmSync(log, { force: true });
  const env = {
    LD_PRELOAD: companionPath("pager"),
    FLASHBUN_SIDECARS: `/nowhere:${sidecars}`,
    FLASHBUN_PAGER_LOG: log,
    ...environment,
  };
  const child = Bun.spawn([program, shrunk, what], { env, stdout: "pipe", stderr: "pipe" });
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  await child.exited;
  const lines = existsSync(log) ? readFileSync(log, "utf8").trim().split("\n") : [];
  const pages = lines.filter(Boolean).map((line) => JSON.parse(line) as { page: number });
  return { out, err, code: child.exitCode, signal: child.signalCode, pages };
}

const pageOf = (number: number) => Math.floor(at.get(`spare_${number}`)! / 4096);

describe("a removed page that is needed", () => {
  test("was removed: without the pager the program dies", async () => {
    const { pages } = readSidecar(mapFile(sidecar).data, sidecar);
    expect(pages.reduce((sum, [, bytes]) => sum + bytes, 0)).toBeGreaterThan(2 ** 20);
    expect(await run("one", { LD_PRELOAD: "" })).toMatchObject({ signal: "SIGSEGV" });
    expect(await run("one", { FLASHBUN_SIDECARS: folder })).toMatchObject({ signal: "SIGSEGV" });
  });

  test("comes back from the sidecar, and that is said", async () => {
    const { code, err, pages } = await run("one");
    expect([code, err]).toEqual([0, ""]);
    expect(pages).toEqual([{ event: "page", library: shrunk, page: pageOf(2500) } as never]);
  });

  test("comes back where a handler has a stack of two pages", async () => {
    const { code, signal, pages } = await run("small");
    expect({ code, signal }).toEqual({ code: 0, signal: null });
    expect(pages).toHaveLength(1);
  });

  test("comes back, and is said, where the program has closed all files and opened others", async () => {
    const { code, signal, pages } = await run("closed");
    expect({ code, signal }).toEqual({ code: 0, signal: null });
    expect(pages.map(({ page }) => page)).toEqual([2500, 3500].map(pageOf));
  });

  test("is said on standard error where no file is named", async () => {
    const { code, err, pages } = await run("one", { FLASHBUN_PAGER_LOG: "" });
    expect([code, pages]).toEqual([0, []]);
    expect(JSON.parse(err)).toEqual({ event: "page", library: shrunk, page: pageOf(2500) });
  });

  test("in threads, forks and handlers of a program that blocks and handles all signals", async () => {
    const { code, signal, out, err, pages } = await run("all");
    expect({ code, signal, out, err }).toEqual({ code: 0, signal: null, out: "done\n", err: "" });
    const numbers = new Set(pages.map(({ page }) => page));
    // Every seventh function was called, and there are eight to a page.
    for (let number = 7; number < functionCount; number += 7)
      if (pageOf(number) > pageOf(0) + 1) expect(numbers).toContain(pageOf(number));
  });
});

describe("a fault that is the program's own", () => {
  test("ends it as ever", async () => {
    expect(await run("crash")).toMatchObject({ signal: "SIGSEGV", pages: [] });
    expect(await run("default")).toMatchObject({ signal: "SIGSEGV", pages: [] });
  });
});

describe("a sidecar that is not the library's is not used", () => {
  const wrong: [string, number, number[]][] = [
    ["no sidecar", 0, [0x58]],
    ["of another library", 16, [1, 2, 3]],
    ["with a table past its end", 88, [0, 0, 0, 0, 1]],
    ["with a table of impossible length", 96, [255, 255, 255, 255, 255, 255, 255, 255]],
  ];
  test.each(wrong)("%s", async (name, offset, bytes) => {
    const other = join(folder, name.replaceAll(" ", "-"));
    mkdirSync(other);
    const copy = join(other, basename(sidecar));
    copyFileSync(sidecar, copy);
    const file = openSync(copy, "r+");
    writeSync(file, Uint8Array.from(bytes), 0, bytes.length, offset);
    closeSync(file);
    expect(await run("one", { FLASHBUN_SIDECARS: other })).toMatchObject({ signal: "SIGSEGV" });
    const both = { FLASHBUN_SIDECARS: `${other}:${sidecars}` };
    expect(await run("one", both)).toMatchObject({ code: 0 });
  });
});
