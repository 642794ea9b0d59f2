import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  contentFaults,
  glibcFaults,
  libraryPackage,
  sourcePackage,
} from "../../scripts/release/contents.ts";
import { libraries, manifestOf, platforms } from "../../scripts/release/packages.ts";
import { root } from "../support/sources.ts";

const bun = process.execPath;
const [platform] = platforms;
let clone: string;

/** What packing needs of the project, without any library. */
beforeAll(() => {
  clone = mkdtempSync(join(tmpdir(), "flashbun-packing-"));
  const names = ["package.json", "README.md", "LICENSE", "toolchain.zon", "scripts", "src"];
  for (const name of names) cpSync(join(root, name), join(clone, name), { recursive: true });
  for (const name of ["package.json", "README.md"])
    cpSync(join(root, platform, name), join(clone, platform, name));
  // Declarations are another test's; the packages' scripts name `bun`.
  writeFileSync(join(clone, "scripts", "types.ts"), "");
  mkdirSync(join(clone, "bin"));
  symlinkSync(bun, join(clone, "bin", "bun"));
});

afterAll(() => rmSync(clone, { recursive: true, force: true }));

/** Runs a command in a folder of the clone; returns its exit code and all that it said. */
function said(command: readonly string[], folder = "."): { exitCode: number; text: string } {
  const env = { ...process.env, PATH: `${join(clone, "bin")}:${process.env["PATH"]}` };
  const { exitCode, stdout, stderr } = Bun.spawnSync([...command], {
    cwd: join(clone, folder),
    env,
  });
  return { exitCode, text: `${stdout}${stderr}` };
}

function edit(folder: string, changes: object): void {
  const manifest = { ...manifestOf(folder), ...changes };
  writeFileSync(join(clone, folder, "package.json"), JSON.stringify(manifest));
}

/** Fills the platform package with files under the libraries' names, as a build does. */
function build(): void {
  const built = join(clone, "zig-out", "lib");
  mkdirSync(built, { recursive: true });
  for (const name of libraries) writeFileSync(join(built, name), name);
  const script = `import { fillPlatform } from "./scripts/release/packages.ts";
    fillPlatform("${platform}", "${built}");`;
  expect(said([bun, "-e", script])).toEqual({ exitCode: 0, text: "" });
}

beforeEach(() => {
  for (const folder of [".", platform]) edit(folder, {});
  build();
});

const { version } = manifestOf();
const notBuilt =
  `@flashbun/linux-x64-gnu ${version} is not built, so nothing can be packed. ` +
  "Fix: bun run release";
const pack = [bun, "pm", "pack", "--dry-run"];
const packs: [string, string[]][] = [
  ["bun pm pack", pack],
  ["npm pack", ["npm", "pack", "--dry-run"]],
];
const publishing: [string, string[]] = ["npm publish", ["npm", "publish", "--dry-run"]];

const withoutPackage: [string, string, string[]][] = [
  ...[...packs, publishing].map((by): [string, string, string[]] => [platform, ...by]),
  [".", ...publishing],
];
test.each(withoutPackage)("%s is not packed by %s without its library", (folder, _, command) => {
  rmSync(join(clone, platform, "build.json"));
  const { exitCode, text } = said(command, folder);
  expect(exitCode).not.toBe(0);
  expect(text).toContain(notBuilt);
});

test.each(packs)("flashbun alone is packed by %s where a library was built", (_, command) => {
  rmSync(join(clone, platform, "build.json"));
  expect(said(command).exitCode).toBe(0);
  rmSync(join(clone, "zig-out", "lib", "libflashbun.so"));
  const { exitCode, text } = said(command);
  expect(exitCode).not.toBe(0);
  expect(text).toContain("no library is in zig-out/lib, so nobody tried what is packed. Fix: ");
});

describe.each([".", platform])("packing %s", (folder) => {
  const cases: [string, () => void, string][] = [
    [
      "another library than was built",
      () => writeFileSync(join(clone, platform, "libflashbun.so"), "other"),
      notBuilt,
    ],
    [
      "a library of another ABI",
      () => {
        const path = join(clone, platform, "build.json");
        const record = JSON.parse(readFileSync(path, "utf8")) as { abi: number };
        writeFileSync(path, JSON.stringify({ ...record, abi: record.abi - 1 }));
      },
      notBuilt,
    ],
    [
      "versions that differ",
      () => edit(platform, { version: "9.0.0" }),
      `has version 9.0.0, flashbun has ${version}. Fix: give both the same version`,
    ],
    [
      "a range of the platform package",
      () => edit(".", { optionalDependencies: { "@flashbun/linux-x64-gnu": `^${version}` } }),
      `^${version}. Fix: set "@flashbun/linux-x64-gnu": "${version}" in its optionalDependencies`,
    ],
  ];
  test.each(cases)("fails with %s", (_, spoil, sentence) => {
    spoil();
    const { exitCode, text } = said(pack, folder);
    expect(exitCode).not.toBe(0);
    expect(text).toContain(sentence);
  });

  test.each(packs)("by %s succeeds after a build", (_, command) => {
    const { exitCode, text } = said(command, folder);
    expect(exitCode).toBe(0);
    expect(text).toContain("README.md");
  });
});

describe("a tarball", () => {
  const tarball = (...names: string[]) => ({
    path: "flashbun.tgz",
    files: new Map(names.map((name) => [name, 1])),
  });
  test("of flashbun holds no library, test or stray file", () => {
    expect(
      contentFaults(tarball(...sourcePackage.required, "docs/cuda.md"), sourcePackage),
    ).toEqual([]);
    const stray = ["src/libflashbun.so", "src/kv/batch.test.ts", "docs/api/index.html", "a.ts"];
    expect(contentFaults(tarball(...sourcePackage.required, ...stray), sourcePackage)).toEqual(
      stray.map((name) => `${name} does not belong into flashbun.tgz.`),
    );
  });

  test("of a platform holds every library", () => {
    const some = libraryPackage.required.filter((name) => name !== "libflashbun.so");
    expect(contentFaults(tarball(...some), libraryPackage)).toEqual([
      "flashbun.tgz lacks libflashbun.so.",
    ]);
  });
});

test("a library that needs a newer glibc than is promised is found", () => {
  const path = join(clone, "library.so");
  writeFileSync(path, "\0GLIBC_2.2.5\0GLIBC_2.28\0");
  expect(glibcFaults(path)).toEqual([]);
  writeFileSync(path, "\0GLIBC_2.2.5\0GLIBC_2.34\0");
  expect(glibcFaults(path)).toEqual([`${path} needs glibc 2.34, 2.28 is promised.`]);
});
