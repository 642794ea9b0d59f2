import { beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { readLibraryId } from "../../src/debloat/library.ts";
import { emptyProfile, type Profile } from "../../src/debloat/profile/profile.ts";
import { formatProfile } from "../../src/debloat/profile/text.ts";
import { sidecarName } from "../../src/debloat/shrink/shrink.ts";
import { flashbun } from "../cli/run.ts";
import { makeCubin } from "./support/make-cubin.ts";
import { makeContainer, makeLibrary, temporaryFolder, zig } from "./support/make-library.ts";

// A package as PyPI has them: libraries find each other from where they are.
const folder = temporaryFolder("run");
const kernels = join(folder, "package", "inner", "lib", "libkernels.so");
const outer = join(folder, "package", "outer", "libouter.so");
const cache = join(folder, "cache");
const profilePath = join(folder, "profile.json");
const bunScript = join(folder, "script.ts");
const pythonScript = join(folder, "script.py");

let original: Buffer;
let profile: Profile;

beforeAll(async () => {
  const image = (seed: number, arch: number) =>
    makeCubin({ arch, seed, kernels: [{ name: `kernel_${arch}`, bytes: 40_000 }] });
  const entries = [80, 90].map((arch) => ({ image: image(arch, arch), arch }));
  await makeLibrary(kernels, { loaded: [makeContainer(entries)], spareFunctions: 2000 });
  mkdirSync(dirname(outer), { recursive: true });
  writeFileSync(`${outer}.s`, ".globl ask\nask: jmp answer@PLT\n.section .note.GNU-stack\n");
  const link = ["-shared", "-o", outer, `${outer}.s`, `-L${dirname(kernels)}`, "-lkernels"];
  const rpath = "-Wl,-rpath,$ORIGIN/../inner/lib";
  await zig("cc", "-target", "x86_64-linux-gnu", ...link, rpath, "-Wl,--build-id=sha1");
  original = readFileSync(kernels);
  profile = emptyProfile();
  profile.libraries[readLibraryId(kernels)!] = {
    path: kernels,
    bytes: original.length,
    kernels: ["kernel_90"],
    cubins: [],
    globals: [],
    pages: [[0, 1]],
    functions: [],
  };
  writeFileSync(profilePath, formatProfile(profile));
  const maps = "/proc/self/maps";
  writeFileSync(
    bunScript,
    `import { dlopen } from "bun:ffi";
     const { symbols } = dlopen(process.argv[2], { [process.argv[3]]: { returns: "i32" } });
     console.log(symbols[process.argv[3]]());
     const files = require("node:fs").readFileSync("${maps}", "utf8").match(/\\S*libkernels.so/g);
     console.log([...new Set(files)].join());`,
  );
  writeFileSync(
    pythonScript,
    `import ctypes, re, sys
print(getattr(ctypes.CDLL(sys.argv[1]), sys.argv[2])())
print(",".join(set(re.findall(r"\\S*libkernels.so", open("${maps}").read()))))
sys.exit(5)
`,
  );
}, 120_000);

async function run(command: string[], ...options: string[]) {
  const fixed = ["--profile", profilePath, "--cache", cache, "--arch", "sm_90", ...options];
  const said = await flashbun("debloat", "run", ...fixed, "--", ...command);
  const [result, files] = said.out.trim().split("\n");
  return { ...said, result, files };
}

const programs: [string, string[], number][] = [
  ["Bun", [process.execPath, bunScript], 0],
  ["Python", ["python3", pythonScript], 5],
];
const here = programs.filter(([, [program]]) => Bun.which(program) !== null);

describe.each(here)("%s", (_, program, code) => {
  test("opens a library by its path and gets the shrunk one", async () => {
    const said = await run([...program, kernels, "answer"]);
    expect(said).toMatchObject({ code, result: "42" });
    expect(said.files).toStartWith(`${cache}/`);
    expect(statSync(said.files).size).toBeLessThan(original.length - 30_000);
  });

  test("opens one that is found from where another is", async () => {
    const said = await run([...program, outer, "ask"]);
    expect(said).toMatchObject({ code, result: "42" });
    expect(said.files).toStartWith(`${cache}/`);
  });

  test("gets back host code that was removed, and hears of it", async () => {
    const said = await run([...program, kernels, "spare_1500"], "--host", "pages");
    expect(said).toMatchObject({ code, result: "1500" });
    expect(said.err).toMatch(/\d removed pages? of libkernels.so needed after all, and back/);
    expect(statSync(said.files).size).toBeLessThan(original.length - 900_000);
  });
});

describe("the cache", () => {
  test("is used again, and holds a file for each choice of options", async () => {
    const command = [process.execPath, bunScript, kernels, "answer"];
    const first = await run(command, "--keep", "nothing");
    expect(first.err).toContain("shrinking libkernels.so");
    const second = await run(command, "--keep", "nothing");
    expect(second.err).not.toContain("shrinking");
    expect(second.files).toBe(first.files);
    const other = await run(command, "--keep", "else");
    expect(other.files).not.toBe(first.files);
  });

  test("gives a program one folder of sidecars, whatever the number of libraries", async () => {
    // An audit library reads no more than 8 KB of names.
    const { out } = await run(["sh", "-c", 'ls "$FLASHBUN_SIDECARS"']);
    expect(out).toBe(`${sidecarName(readLibraryId(kernels)!, kernels)}\n`);
  });

  test("the originals are as they were", () => {
    expect(readFileSync(kernels).equals(original)).toBe(true);
  });
});

describe("what stays as it is", () => {
  test("a library of another build, and one that is gone", async () => {
    const other = structuredClone(profile);
    const [known] = Object.values(other.libraries);
    other.libraries = { abcd: known, ef01: { ...known, path: join(folder, "gone.so") } };
    const path = join(folder, "other.json");
    writeFileSync(path, formatProfile(other));
    const said = await run([process.execPath, bunScript, kernels, "answer"], "--profile", path);
    expect(said).toMatchObject({ code: 0, result: "42", files: kernels });
    expect(said.err).toMatch(
      /libkernels.so stays as it is: its build is [0-9a-f]{40}, the profile's is abcd/,
    );
    expect(said.err).toContain("gone.so stays as it is: it is not there");
  });

  test("a profile that is not there is refused", async () => {
    const said = await run(["true"], "--profile", join(folder, "none.json"));
    expect(said.code).toBe(2);
    expect(said.err).toContain("--profile must be a file that can be read");
  });
});
