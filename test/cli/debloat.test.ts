import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Inspection } from "../../src/debloat/inspect/inspect.ts";
import { makeCubin } from "../debloat/support/make-cubin.ts";
import { makeContainer, makeLibrary, temporaryFolder } from "../debloat/support/make-library.ts";
import { flashbun } from "./run.ts";

const minutes = 60_000;
let folder: string;
let library: string;

beforeAll(async () => {
  folder = temporaryFolder("debloat");
  library = join(folder, "in", "libmade.so");
  const kernels = ["_ZN4some4spinEv", "stop"].map((name) => ({ name, bytes: 6400 }));
  const entries = [80, 90].map((arch) => ({ image: makeCubin({ arch, seed: 1, kernels }), arch }));
  const loaded = [1, 2, 3].map(() => makeContainer(entries));
  await makeLibrary(library, { loaded, spareFunctions: 20 });
}, 5 * minutes);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("flashbun debloat inspect", () => {
  test("prints parts, architectures and savings; writes JSON and a page", async () => {
    const [json, html] = ["i.json", "i.html"].map((name) => join(folder, name));
    const said = await flashbun("debloat", "inspect", library, "--json", json, "--html", html);
    expect(said).toMatchObject({ code: 0, err: "" });
    expect(said.out).toMatch(/^libmade\.so {2}0\.\d\d MB {2}build [0-9a-f]{40}$/m);
    expect(said.out).toMatch(/^ {2}fat binaries +0\.09 MB +\d+\.\d %$/m);
    expect(said.out).toMatch(/^ {2}\.nv_fatbin +sm_90 +3 +0\.05 MB +0\.05 MB +6 +none 3$/m);
    expect(said.out).toMatch(/^ {2}--arch sm_90 +0\.0\d MB +\d+\.\d %$/m);
    expect(said.out).toMatch(/^ {2}--host pages +up to 0\.01 MB/m);
    const [inspection] = (await Bun.file(json).json()) as Inspection[];
    expect(inspection.containers).toHaveLength(3);
    expect(inspection.containers[0].images[0].kernelNames.map(({ name }) => name)).toEqual([
      "_ZN4some4spinEv",
      "stop",
    ]);
    const page = await Bun.file(html).text();
    expect(page).toContain('"name":"libmade.so"');
    expect(page).toContain("some::spin");
    expect(page).not.toMatch(/(src|href)="http/);
  });

  test("says which file is none, and leaves with 1", async () => {
    const said = await flashbun("debloat", "inspect", import.meta.path);
    expect(said.code).toBe(1);
    expect(said.err).toBe(
      `flashbun: ${import.meta.path}: it is not an ELF file. ` +
        "Fix: give a shared library (.so) of 64-bit Linux.\n",
    );
  });
});

describe("flashbun debloat shrink and restore", () => {
  test("a dry run gives reasons and writes nothing", async () => {
    const before = readdirSync(folder);
    const said = await flashbun("debloat", "shrink", library, "--arch", "sm_90");
    expect(said).toMatchObject({ code: 0, err: "" });
    expect(said.out).toMatch(/^ {2}drop {2}\.nv_fatbin {2}sm_80 {2}3 .* no sm_90 takes it$/m);
    expect(said.out).toMatch(/^ {2}keep {2}\.nv_fatbin {2}sm_90 {2}3 .* sm_90 takes it$/m);
    expect(said.out).toMatch(/^1 library in [\d.]+ s: files 0\.\d\d MB -> /m);
    expect(readdirSync(folder)).toEqual(before);
  });

  test("refuses a GPU for which there is no code, and says which there are", async () => {
    const out = join(folder, "none");
    const arch = ["--arch", "sm_90,sm_50", "-o", out];
    const said = await flashbun("debloat", "shrink", library, ...arch);
    expect(said).toMatchObject({ code: 1, out: "" });
    expect(said.err).toContain("libmade.so: no image for sm_50; it has sm_80, sm_90. Fix: name");
    expect(existsSync(join(out, "libmade.so"))).toBe(false);
  });

  test("without any option, says what could be chosen", async () => {
    const said = await flashbun("debloat", "shrink", library);
    expect(said).toMatchObject({ code: 0, err: "" });
    expect(said.out).toMatch(/^nothing was chosen to go: --arch .*--recompress need no choice\.$/m);
  });

  test("there and back", async () => {
    const [out, sides, json] = ["out", "sides", "s.json"].map((name) => join(folder, name));
    mkdirSync(sides);
    const options = ["--arch", "sm_90", "--keep", "^stop$", "--strip", "--sidecar", sides];
    const files = ["-o", out, "--json", json];
    const shrunk = await flashbun("debloat", "shrink", library, ...options, ...files);
    expect(shrunk).toMatchObject({ code: 0, err: "" });
    expect(readdirSync(out)).toEqual(["libmade.so"]);
    expect(readdirSync(sides)).toEqual([expect.stringMatching(/^[0-9a-f]{40}\.side$/)]);
    const [report] = await Bun.file(json).json();
    const trimmed = report.items.filter((item: { action: string }) => item.action === "trim");
    expect(trimmed).toHaveLength(3);
    expect(trimmed[0]).toMatchObject({
      section: ".nv_fatbin",
      container: 0,
      arch: "sm_90",
      keptKernels: ["stop"],
      droppedKernels: ["_ZN4some4spinEv"],
    });
    const back = join(folder, "back.so");
    const small = join(out, "libmade.so");
    const restored = await flashbun("debloat", "restore", small, "--sidecar", sides, "-o", back);
    expect(restored).toMatchObject({ code: 0, err: "" });
    expect(await Bun.file(back).bytes()).toEqual(await Bun.file(library).bytes());
  });

  const wrong: [string, string[], number, RegExp][] = [
    ["a level that is none", ["--level", "warp"], 2, /--level must be one of arch, cubin, kernel/],
    [
      "a level without a profile",
      ["--level", "cubin"],
      2,
      /--level must be arch without a profile/,
    ],
    [
      "a GPU that is none",
      ["--arch", "sm_90,x"],
      2,
      /--arch must be GPU architectures such as sm_/,
    ],
    ["a pattern that is none", ["--keep", "("], 2, /--keep must be a regular expression/],
    ["pages without a sidecar", ["--host", "pages"], 2, /--host must be off without a profile/],
    ["a profile that is not there", ["--profile", "none.json"], 2, /--profile must be a file that/],
    ["an output that is the input", ["-o", "IN"], 1, /it is the input/],
  ];
  test.each(wrong)("%s", async (_, options, code, message) => {
    const words = options.map((word) => (word === "IN" ? join(folder, "in") : word));
    const said = await flashbun("debloat", "shrink", library, ...words);
    expect(said.err).toMatch(message);
    expect(said.err).toMatch(/^flashbun: .* Fix: .*\n$/);
    expect(said).toMatchObject({ code, out: "" });
  });

  test("two libraries of one name would overwrite each other", async () => {
    const said = await flashbun("debloat", "shrink", library, library, "-o", join(folder, "two"));
    expect(said.err).toContain('must be libraries of different names (got "libmade.so")');
    expect(existsSync(join(folder, "two"))).toBe(false);
  });
});
