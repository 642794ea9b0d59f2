/**
 * `flashbun debloat verify` as people call it: libraries are opened, and commands run with them.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sectionNamed } from "../../../src/debloat/elf/elf.ts";
import { readLibrary } from "../../../src/debloat/library.ts";
import { emptyProfile } from "../../../src/debloat/profile/profile.ts";
import { formatProfile } from "../../../src/debloat/profile/text.ts";
import { runBun } from "../../support/run.ts";
import { root } from "../../support/zig.ts";
import { makeCubin } from "../support/make-cubin.ts";
import { makeContainer, makeLibrary, temporaryFolder, zig } from "../support/make-library.ts";

const minutes = 60_000;
let folder: string;
let original: string;
let needing: string;
let sidecars: string;
let shrunk: string;
let program: string;

const debloat = (...args: string[]) =>
  runBun([join(root, "src", "cli", "main.ts"), "debloat", ...args]);

beforeAll(async () => {
  folder = temporaryFolder("verify-command");
  const whole = join(folder, "whole");
  [sidecars, shrunk, program] = ["sidecars", "shrunk", "program"].map((name) =>
    join(folder, name),
  ) as [string, string, string];
  original = join(whole, "libmain.so");
  needing = join(whole, "libneeding.so");
  const loaded = [80, 90].map((arch) => {
    const image = makeCubin({ arch, seed: arch, kernels: [{ name: "add", bytes: 100_000 }] });
    return makeContainer([{ image, arch }]);
  });
  const named = ["-Wl,-soname,libmain.so"];
  await makeLibrary(original, { loaded, spareFunctions: 300, flags: named });
  // It finds its neighbours from where it lies: the second where it had looked for the first.
  const other = join(folder, "other", "libother.so");
  await makeLibrary(other, { loaded: [], flags: ["-Wl,-soname,libother.so"] });
  const search = "-Wl,-rpath,$ORIGIN/../other:$ORIGIN/../whole";
  const flags = ["-Wl,--no-as-needed", original, other, search];
  await makeLibrary(needing, { loaded, flags });
  await buildProgram();
  const profile = join(folder, "profile.json");
  writeFileSync(profile, formatProfile(profileOfStart()));
  const options = ["--arch", "sm_90", "--level", "arch", "--host", "pages", "--profile", profile];
  const done = await debloat("shrink", original, "-o", shrunk, "--sidecar", sidecars, ...options);
  expect(done).toMatchObject({ code: 0, stderr: "" });
  const more = await debloat("shrink", needing, "-o", shrunk, "--arch", "sm_90");
  expect(more).toMatchObject({ code: 0, stderr: "" });
}, 5 * minutes);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Prints what functions of the library return, the last of them removed from the shrunk one. */
async function buildProgram(): Promise<void> {
  const source = `
    #include <dlfcn.h>
    #include <stdio.h>
    int main(int count, char **words) {
      void *library = dlopen("${original}", RTLD_NOW);
      if (library == NULL) return puts(dlerror()), 1;
      for (int at = 1; at < count; at++)
        printf("%u\\n", ((unsigned (*)(void)) dlsym(library, words[at]))());
      return 0;
    }`;
  writeFileSync(`${program}.c`, source);
  await zig("cc", "-target", "x86_64-linux-gnu", "-o", program, `${program}.c`);
}

/** A run that touched the first pages of code. */
function profileOfStart() {
  const { buildId, elf } = readLibrary(Bun.mmap(original), original);
  const first = Math.floor(sectionNamed(elf, ".text")!.address / 4096);
  const library = {
    path: original,
    bytes: elf.bytes.length,
    kernels: [],
    cubins: [],
    globals: [],
    functions: [],
    pages: [[first, 3]] as [number, number][],
  };
  return { ...emptyProfile(), libraries: { [buildId!]: library } };
}

test(
  "libraries are read and opened, and a command that runs with them prints the same",
  async () => {
    const before = [original, needing].map((path) => Bun.hash(readFileSync(path)));
    const json = join(folder, "checks.json");
    // The last function has to come back from the sidecar.
    const run = ["--run", `${program} answer spare_290`, "--json", json];
    const found = await debloat("verify", original, shrunk, "--sidecar", sidecars, ...run);
    expect(found).toMatchObject({ code: 0, stderr: "" });
    expect(found.stdout).toEndWith("all is right\n");
    const { libraries, runs } = JSON.parse(readFileSync(json, "utf8"));
    const names = libraries[0].checks.map(({ name }: { name: string }) => name);
    expect(names).toEqual(["memory", "fat binaries", "sidecar", "dlopen", "readelf"]);
    for (const { verdict } of libraries[0].checks.slice(0, 4)) expect(verdict).toBe("right");
    expect(runs.map(({ name, verdict }: Record<string, string>) => [name, verdict])).toEqual([
      ["run, LAZY", "right"],
      ["run, EAGER", "right"],
    ]);
    expect(runs[0].detail).toContain("1 of 1 libraries loaded, 7 bytes of output compared");
    expect(runs[0].detail).toContain("1 run of host code came back");
    expect([original, needing].map((path) => Bun.hash(readFileSync(path)))).toEqual(before);
  },
  minutes,
);

test(
  "a library finds its neighbours as the original does",
  async () => {
    const found = await debloat("verify", needing, join(shrunk, "libneeding.so"));
    expect(found.stdout).toContain("dlopen: right, all symbols resolve, constructors run\n");
    expect(found).toMatchObject({ code: 0, stderr: "" });
  },
  minutes,
);

test(
  "what is wrong is said, with exit code 1",
  async () => {
    const broken = join(folder, "broken");
    mkdirSync(broken);
    const path = join(broken, "libmain.so");
    copyFileSync(join(shrunk, "libmain.so"), path);
    const bytes = readFileSync(path);
    const { elf } = readLibrary(bytes.subarray(0, -64), path);
    // The table of symbols lets functions be found; names of them that are gone are not.
    const { offset, bytes: count } = sectionNamed(elf, ".dynstr")!;
    bytes.fill(0x78, offset + 1, offset + count - 1);
    writeFileSync(path, bytes);
    const run = `${program} answer`;
    const found = await debloat("verify", original, broken, "--sidecar", sidecars, "--run", run);
    expect(found.code).toBe(1);
    expect(found.stdout).toContain("memory: wrong");
    expect(found.stdout).toMatch(
      /run, LAZY: wrong.*\n +it ended with 139: Segmentation fault, not with 0\n/,
    );
    expect(found.stdout).toMatch(/\d checks failed\n$/);
  },
  minutes,
);

test(
  "a command that loads none of the libraries, or never prints the same, proves nothing",
  async () => {
    const args = [original, shrunk, "--sidecar", sidecars, "--run"];
    const other = await debloat("verify", ...args, "echo hello");
    expect(other.code).toBe(1);
    expect(other.stdout).toContain("it loads none of the libraries");
    const random = await debloat("verify", ...args, "cat /proc/sys/kernel/random/uuid");
    expect(random.stdout).toContain("run, EAGER: not checked, two runs with the originals differ");
    const failing = await debloat("verify", ...args, "echo so >&2; exit 3");
    expect(failing.stdout).toContain("with the originals it ended with 3: so");
    expect(failing.code).toBe(1);
  },
  minutes,
);

test(
  "called wrongly",
  async () => {
    const one = await debloat("verify", original);
    expect(one.code).toBe(2);
    expect(one.stderr).toContain("originals, then what they became");
    const two = await debloat("verify", original, needing, join(shrunk, "libmain.so"));
    expect(two.code).toBe(2);
    const same = await debloat("verify", original, original);
    expect(same.code).toBe(1);
    expect(same.stderr).toContain("debloat did not write it");
  },
  minutes,
);
