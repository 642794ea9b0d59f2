/** Slim copies of environments: whole or not at all, right to the last sum, and back again. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import {
  chmodSync,
  constants,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { readLibraryId } from "../../src/debloat/library.ts";
import { emptyProfile, type Profile } from "../../src/debloat/profile/profile.ts";
import { formatProfile } from "../../src/debloat/profile/text.ts";
import { restoreTree, slimTree } from "../../src/debloat/tree/tree.ts";
import { flashbun } from "../cli/run.ts";
import { root } from "../support/zig.ts";
import { makeCubin } from "./support/make-cubin.ts";
import { makeContainer, makeLibrary, temporaryFolder } from "./support/make-library.ts";

const folder = temporaryFolder("tree");
const venv = join(folder, "venv");
const site = join(venv, "lib", "python3", "site-packages");
const used = join(folder, "used.json");
const libraries = ["known/lib/libknown.so", "other/libother.so"];
let profile: Profile;

const sumOf = (bytes: Uint8Array) =>
  `sha256=${createHash("sha256").update(bytes).digest("base64url")}`;

function record(name: string, files: string[]): void {
  const info = join(site, `${name}-1.0.dist-info`);
  mkdirSync(info, { recursive: true });
  const lines = files.map((file) => {
    const bytes = readFileSync(join(site, file));
    return `${file.includes(",") ? `"${file}"` : file},${sumOf(bytes)},${bytes.length}`;
  });
  lines.push(`${name}-1.0.dist-info/RECORD,,`);
  writeFileSync(join(info, "RECORD"), `${lines.join("\r\n")}\r\n`);
}

beforeAll(async () => {
  const archs = [80, 90];
  const image = (arch: number, seed: number) =>
    makeCubin({ arch, seed, kernels: ["a", "b"].map((name) => ({ name, bytes: 100_000 })) });
  for (const [at, name] of libraries.entries())
    await makeLibrary(join(site, name), {
      loaded: [makeContainer(archs.map((arch) => ({ image: image(arch, at), arch })))],
      spareFunctions: 4,
    });
  for (const name of libraries)
    for (const left of ["loaded.bin", "relocatable.bin"]) rmSync(join(site, name, "..", left));
  writeFileSync(join(site, "known", "odd, name.py"), "print(1)\n");
  writeFileSync(join(site, "known", "empty.py"), "");
  mkdirSync(join(venv, "bin"), { recursive: true });
  writeFileSync(join(venv, "bin", "tool"), "#!/bin/sh\n");
  chmodSync(join(venv, "bin", "tool"), 0o755);
  symlinkSync("/usr/bin/env", join(venv, "bin", "python"));
  symlinkSync("lib", join(venv, "lib64"));
  symlinkSync(join(site, libraries[0]), join(venv, "lib", "whole-path.so"));
  symlinkSync("nowhere", join(venv, "dangling"));
  record("known", [libraries[0], "known/odd, name.py", "known/empty.py"]);
  record("other", [libraries[1]]);
  record("plain", ["known/empty.py"]);
  profile = emptyProfile();
  const run = { command: ["x"], date: "", host: "off", driver: null, cuda: null } as const;
  profile.runs.push({ ...run, command: ["x"], gpu: "sm_90" });
  const path = join(site, libraries[0]);
  profile.libraries[readLibraryId(path)!] = {
    path,
    bytes: statSync(path).size,
    kernels: ["a"],
    cubins: [],
    globals: [],
    pages: [],
    functions: [],
  };
  writeFileSync(used, formatProfile(profile));
}, 300_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** All that a folder holds, by name. */
function contents(path: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const name of readdirSync(path, { recursive: true, encoding: "utf8" }).sort()) {
    // What lies behind a link is there by its own name too.
    if (name.startsWith("lib64/")) continue;
    const facts = lstatSync(join(path, name));
    if (facts.isSymbolicLink()) found.set(name, `-> ${readlinkSync(join(path, name))}`);
    else if (facts.isFile())
      found.set(name, `${facts.mode} ${Bun.hash(readFileSync(join(path, name)))}`);
    else found.set(name, `folder ${facts.mode}`);
  }
  return found;
}

/** RECORD files whose sums are not those of the files. */
function wrongSums(path: string): string[] {
  const packages = join(path, "lib", "python3", "site-packages");
  return readdirSync(packages)
    .filter((name) => name.endsWith(".dist-info"))
    .flatMap((name) => readFileSync(join(packages, name, "RECORD"), "utf8").split("\r\n"))
    .flatMap((line) => {
      const [, field, sum, bytes] = /^(".*"|[^,]*),([^,]*),(.*)$/.exec(line) ?? [];
      if (!sum) return [];
      const data = readFileSync(join(packages, field.replaceAll('"', "")));
      return sumOf(data) === sum && data.length === Number(bytes) ? [] : [line];
    });
}

function canShareBlocks(): boolean {
  try {
    copyFileSync(used, join(folder, "clone"), constants.COPYFILE_FICLONE_FORCE);
    return true;
  } catch {
    return false;
  } finally {
    rmSync(join(folder, "clone"), { force: true });
  }
}

const leftovers = () => readdirSync(folder).filter((name) => name.includes(".part"));

test("a copy is slim, right, and comes back bit for bit", async () => {
  const before = contents(venv);
  const [slim, cold, whole] = ["slim", "cold", "whole"].map((name) => join(folder, name));
  const report = await slimTree(venv, slim, { profile, strip: true, sidecar: cold });
  expect(report.libraries.map(({ name, isProfiled }) => [name, isProfiled])).toEqual([
    [`lib/python3/site-packages/${libraries[0]}`, true],
    [`lib/python3/site-packages/${libraries[1]}`, false],
  ]);
  // One has a kernel of four left, the other two.
  const [known, other] = report.libraries.map(
    ({ bytesBefore, bytesAfter }) => bytesAfter / bytesBefore,
  );
  expect(known).toBeLessThan(0.35);
  expect(other).toBeLessThan(0.6);
  expect(report.records).toBe(2);
  expect(contents(venv)).toEqual(before);
  expect(wrongSums(slim)).toEqual([]);
  expect([...contents(slim).keys()]).toEqual([...before.keys()]);
  const after = contents(slim);
  for (const name of ["bin/tool", "bin/python", "lib64", "dangling", "bin"])
    expect(after.get(name)).toBe(before.get(name));
  expect(after.get("lib/whole-path.so")).toBe(`-> python3/site-packages/${libraries[0]}`);
  // What stays takes no room: blocks are shared, or the file is the same.
  const tool = join("bin", "tool");
  const isSame = statSync(join(slim, tool)).ino === statSync(join(venv, tool)).ino;
  expect(isSame).toBe(!canShareBlocks());
  await restoreTree(slim, cold, whole);
  const back = contents(whole);
  const link = "lib/whole-path.so";
  back.set(link, before.get(link)!);
  expect(back).toEqual(before);
  expect(leftovers()).toEqual([]);
});

test("the command prints a table, writes JSON and a page, and restores", async () => {
  const at = (name: string) => join(folder, "cli", name);
  mkdirSync(at(""));
  const outputs = ["-o", at("slim"), "--sidecar", at("cold"), "--json", at("j"), "--html", at("h")];
  const said = await flashbun("debloat", "tree", venv, "--profile", used, ...outputs);
  expect(said.code).toBe(0);
  expect(said.err).toContain("debloat: shrinking libknown.so\n");
  expect(said.out).toMatch(/libother\.so +0\.\d+ MB +0\.\d+ MB +-\d+\.\d % +by GPU alone$/m);
  expect(said.out).toMatch(/^\d+ files in .* 2 libraries shrunk, 2 RECORDs brought up to date$/m);
  expect(JSON.parse(readFileSync(at("j"), "utf8")).libraries).toHaveLength(2);
  expect(readFileSync(at("h"), "utf8")).toContain('"name":"libknown.so"');
  const restore = ["restore", at("slim"), "--sidecar", at("cold"), "-o", at("whole")];
  const restored = await flashbun("debloat", ...restore);
  expect(restored.out).toMatch(/\d+ files, 2 libraries as they were/);
  expect(wrongSums(at("whole"))).toEqual([]);
});

describe("nothing is half made", () => {
  test("what is there, or inside, or no folder is refused", async () => {
    const arch = { arch: ["sm_90"] };
    const there = join(folder, "there");
    mkdirSync(there);
    await expect(slimTree(venv, there, arch)).rejects.toThrow("it is there already. Fix: remove");
    await expect(slimTree(venv, join(venv, "x"), arch)).rejects.toThrow(
      "it lies in what is copied",
    );
    await expect(slimTree(used, join(folder, "x"), arch)).rejects.toThrow("it is no folder");
    await expect(slimTree(venv, join(folder, "x"), {})).rejects.toThrow("give --arch");
    expect(existsSync(join(folder, "x"))).toBe(false);
    expect(leftovers()).toEqual([]);
  });

  test("a failure leaves nothing", async () => {
    const [slim, cold] = ["failed", "failed-cold"].map((name) => join(folder, name));
    const onShrink = (name: string) => {
      if (name.includes("libother")) throw new Error("stop");
    };
    const failed = slimTree(venv, slim, { profile, sidecar: cold, onShrink });
    await expect(failed).rejects.toThrow("stop");
    expect([slim, cold].filter((path) => existsSync(path))).toEqual([]);
    expect(leftovers()).toEqual([]);
    await slimTree(venv, slim, { profile, sidecar: cold });
    const side = readdirSync(cold)[0];
    writeFileSync(join(cold, side), readFileSync(join(cold, side)).fill(0, 4096, 8192));
    await expect(restoreTree(slim, cold, join(folder, "back"))).rejects.toThrow("damaged");
    expect(existsSync(join(folder, "back"))).toBe(false);
    expect(leftovers()).toEqual([]);
  });

  test("interrupted it leaves nothing; what a killed one left goes at the next", async () => {
    const slim = join(folder, "killed");
    const main = join(root, "src", "cli", "main.ts");
    for (const signal of ["SIGINT", "SIGTERM", "SIGKILL"] as const) {
      const command = [process.execPath, main, "debloat", "tree", venv, "--arch", "sm_90"];
      const child = Bun.spawn([...command, "-o", slim], { stderr: "pipe", stdout: "ignore" });
      // It says this when the temporary folder is there.
      for await (const text of child.stderr) if (Buffer.from(text).includes("shrinking")) break;
      child.kill(signal);
      await child.exited;
      const isDone = existsSync(slim);
      if (isDone) rmSync(slim, { recursive: true });
      else if (signal !== "SIGKILL") expect(leftovers()).toEqual([]);
    }
    await slimTree(venv, slim, { arch: ["sm_90"] });
    expect(leftovers()).toEqual([]);
    expect(wrongSums(slim)).toEqual([]);
  });
});

test("auto traces the first run and uses shrunk libraries from the second on", async () => {
  const cache = join(folder, "auto-cache");
  const library = join(site, libraries[0]);
  const script = join(folder, "answer.ts");
  writeFileSync(
    script,
    `import { dlopen } from "bun:ffi";
     const { symbols } = dlopen(${JSON.stringify(library)}, { answer: { returns: "i32" } });
     console.log(symbols.answer());
     const maps = require("node:fs").readFileSync("/proc/self/maps", "utf8");
     console.log(maps.match(/\\S*libknown.so/)[0]);
     process.exit(Number(process.argv[2]));`,
  );
  const auto = (code = 0) => {
    const command = [process.execPath, script, String(code)];
    const options = ["--arch", "sm_90", "--cache", cache];
    return flashbun("debloat", "auto", ...options, "--", ...command);
  };
  const failed = await auto(3);
  expect(failed).toMatchObject({ code: 3, out: `42\n${library}\n` });
  expect(failed.err).toContain("the run ended with 3: the next is traced again");
  const first = await auto();
  expect(first).toMatchObject({ code: 0, out: `42\n${library}\n` });
  expect(first.err).toContain("shrinking libknown.so");
  expect(first.err).toContain("the next run uses shrunk libraries");
  const second = await auto();
  expect(second.code).toBe(0);
  expect(second.out).toStartWith(`42\n${cache}/`);
  expect(second.err).toMatch(/\d+ shrunk librar/);
});

test("the Dockerfile's commands make a slim environment", async () => {
  const example = join(root, "examples", "debloat");
  const text = readFileSync(join(example, "Dockerfile"), "utf8");
  const work = join(folder, "docker");
  const tools = join(folder, "docker-tools");
  mkdirSync(work);
  mkdirSync(tools);
  // What a container has: a package installer that is the machine's, flashbun, and its pip.
  const tool = (path: string, line: string) => {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, `#!/bin/sh\n${line}\n`, { mode: 0o755 });
  };
  tool(join(tools, "apt-get"), "exit 0");
  tool(join(tools, "bun"), "exit 0");
  tool(
    join(tools, "flashbun"),
    `exec ${process.execPath} ${join(root, "src", "cli", "main.ts")} "$@"`,
  );
  tool(join(tools, "python3"), `[ "$*" = "-m venv venv" ] && cp -a ${venv} venv`);
  tool(join(venv, "bin", "pip"), "test -f requirements.txt");
  for (const file of ["requirements.txt", "serve.py"])
    writeFileSync(join(work, file), readFileSync(join(example, file)));
  writeFileSync(join(work, "used.json"), readFileSync(used));
  const env = { ...process.env, PATH: `${tools}:${process.env["PATH"]}` };
  const lines = [...text.matchAll(/^RUN (.*)$/gm)].map(([, line]) => line);
  expect(lines.length).toBeGreaterThan(4);
  for (const line of lines) {
    const done = Bun.spawnSync(["sh", "-c", line], { cwd: work, env });
    expect(`${line}: ${done.exitCode}${done.stderr}`).toContain(`${line}: 0`);
  }
  const [, from] = /^COPY --from=build \/app\/(\w+) venv$/m.exec(text)!;
  expect(wrongSums(join(work, from))).toEqual([]);
  const size = (path: string) =>
    statSync(join(path, "lib/python3/site-packages", libraries[0])).size;
  expect(size(join(work, from))).toBeLessThan(0.4 * size(join(work, "venv")));
  for (const [, files] of text.matchAll(/^COPY (?!--)(.*) \.\/$/gm))
    for (const file of files.split(" ")) expect(existsSync(join(work, file))).toBe(true);
});
