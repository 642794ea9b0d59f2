/** Which pages of host code may go, of a library whose every page is known. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { readSymbols, sectionNamed } from "../../../src/debloat/elf/elf.ts";
import { readFunctions } from "../../../src/debloat/elf/functions.ts";
import { type Library, readLibrary } from "../../../src/debloat/library.ts";
import { unusedPages } from "../../../src/debloat/profile/host.ts";
import type { ProfiledLibrary } from "../../../src/debloat/profile/profile.ts";
import { makeLibrary, procedure, temporaryFolder } from "../support/make-library.ts";

const minutes = 60_000;
const pageBytes = 4096;
let folder: string;
let library: Library;
/** Addresses of functions and marks by name. */
let at: Map<string, number>;

/** Room that unwind tables know as one function, so that each mark has pages of its own. */
const spare = (name: string, pages: number) =>
  procedure(name, [`.fill ${pages * pageBytes}, 1, 0x90`]);

beforeAll(async () => {
  folder = temporaryFolder("host");
  const path = join(folder, "libhost.so");
  const more = [
    ".p2align 12",
    ".globl uncovered",
    "uncovered:",
    ".fill 300, 1, 0x90",
    ".globl first",
    ...spare("first", 12),
    ".globl farewell",
    ...procedure("farewell", ["nop"]),
    ".globl second",
    ...spare("second", 12),
    ".globl entered",
    ...procedure("entered", ["nop"]),
    ".globl third",
    ...spare("third", 12),
    ".globl resolver",
    "resolver:",
    ".cfi_startproc",
    ".type chosen, @gnu_indirect_function",
    "chosen: lea number(%rip), %rax",
    "ret",
    ".cfi_endproc",
    ".globl fourth",
    ...spare("fourth", 12),
    ".globl last",
    ...procedure("last", ["nop"]),
    '.section .fini_array, "aw"',
    ".quad farewell",
    ".data",
    ".quad chosen",
  ];
  await makeLibrary(path, { loaded: [], spareFunctions: 100, more });
  library = readLibrary(await Bun.file(path).bytes(), path);
  const symbols = readSymbols(library.elf, sectionNamed(library.elf, ".dynsym")!);
  at = new Map(symbols.map(({ name, value }) => [name, value]));
}, 5 * minutes);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Names of the marks whose pages would go. */
function gone(used: Partial<ProfiledLibrary>): string[] {
  const nothing = { path: "", bytes: 0, kernels: [], cubins: [], globals: [] };
  const profiled = { ...nothing, pages: [], functions: [], ...used };
  const runs = unusedPages(library, readFunctions(library.elf), profiled);
  for (const [start, bytes] of runs) {
    expect(start % pageBytes).toBe(0);
    expect(bytes % pageBytes).toBe(0);
  }
  return [...at]
    .filter(([, address]) =>
      runs.some(([start, bytes]) => address >= start && address < start + bytes),
    )
    .map(([name]) => name);
}

describe("pages of host code", () => {
  const marks = (names: readonly string[]) =>
    names
      .filter((name) => ["uncovered", "farewell", "resolver", "entered", "spare_50"].includes(name))
      .sort();

  test("go when no run touched them, but not those that nobody can judge or the loader calls", () => {
    expect(marks(gone({}))).toEqual(["entered", "spare_50"]);
    const functions = readFunctions(library.elf);
    expect(functions.find(([address]) => address === at.get("first"))![1]).toBe(12 * pageBytes + 1);
    expect(functions.some(([address]) => address === at.get("uncovered"))).toBe(false);
  });

  test("stay when a run entered a function on them or touched them", () => {
    expect(marks(gone({ functions: [[at.get("entered")!, 1]] }))).toEqual(["spare_50"]);
    const page = Math.floor(at.get("spare_50")! / pageBytes);
    expect(marks(gone({ pages: [[page, 1]] }))).toEqual(["entered"]);
    const text = sectionNamed(library.elf, ".text")!;
    const all = [Math.floor(text.address / pageBytes), 1000] as [number, number];
    expect(gone({ pages: [all] })).toEqual([]);
  });

  test("go in runs that are worth a segment", () => {
    // Between two touched pages only three are left.
    const page = Math.ceil(at.get("first")! / pageBytes);
    const used = [page, page + 4].map((touched): [number, number] => [touched, 1]);
    const runs = unusedPages(library, readFunctions(library.elf), {
      path: "",
      bytes: 0,
      kernels: [],
      cubins: [],
      globals: [],
      functions: [],
      pages: used,
    });
    const between = (page + 1) * pageBytes;
    expect(runs.some(([start, bytes]) => between >= start && between < start + bytes)).toBe(false);
    expect(runs.length).toBeGreaterThan(0);
  });
});
