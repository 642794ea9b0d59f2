import { afterEach, beforeEach, describe, expect, spyOn, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cacheDirectory, ImageCache } from "../../src/jit/cache.ts";

const hash = "0123456789abcdef".repeat(4);
const other = "f".repeat(64);
const image = new Uint8Array(1000).map((_, i) => i * 7);
let base: string;
let directory: string;
let warnings: ReturnType<typeof spyOn<typeof process, "emitWarning">>;

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "flashbun-cache-"));
  directory = join(base, "below", "cache");
  warnings = spyOn(process, "emitWarning").mockImplementation(() => {});
});

afterEach(() => {
  warnings.mockRestore();
  rmSync(base, { recursive: true, force: true });
});

/** What was warned of, in order. */
function warned(): string[] {
  return warnings.mock.calls.map(([message]) => String(message));
}

function pathOf(name: string): string {
  return join(directory, `${name}.image`);
}

/** Runs a program to which `cache` is the directory's cache. */
async function runProgram(text: string, prefix: string[] = []) {
  const source = join(import.meta.dir, "..", "..", "src", "jit", "cache.ts");
  const path = join(base, `${Bun.hash(text)}.ts`);
  const head =
    `import { ImageCache } from "${source}";\n` + `const cache = new ImageCache("${directory}");`;
  writeFileSync(path, `${head}${text}`);
  const child = Bun.spawn([...prefix, process.execPath, path], { stderr: "pipe" });
  const stdout = await new Response(child.stdout).text();
  return { stdout, stderr: await new Response(child.stderr).text(), code: await child.exited };
}

describe("the kernel cache", () => {
  test("gives back what was written, to others too", () => {
    const cache = new ImageCache(directory);
    expect(cache.read(hash)).toBeUndefined();
    cache.write(hash, image, "a kernel");
    expect(cache.read(hash)).toEqual(image);
    expect(new ImageCache(directory).read(hash)).toEqual(image);
    expect(cache.read(other)).toBeUndefined();
    expect(warned()).toEqual([]);
  });

  test("is private to the user and holds whole files only", () => {
    new ImageCache(directory).write(hash, image, "a kernel");
    expect(statSync(directory).mode & 0o777).toBe(0o700);
    expect(statSync(pathOf(hash)).mode & 0o777).toBe(0o600);
    expect(readdirSync(directory)).toEqual([`${hash}.image`]);
  });

  test("keeps an empty image", () => {
    const cache = new ImageCache(directory);
    cache.write(hash, new Uint8Array(0), "");
    expect(cache.read(hash)).toEqual(new Uint8Array(0));
  });

  test("lies where the environment says", () => {
    const saved = { ...process.env };
    try {
      process.env["FLASHBUN_CACHE"] = "/somewhere";
      expect(cacheDirectory()).toBe("/somewhere");
      process.env["FLASHBUN_CACHE"] = "";
      process.env["XDG_CACHE_HOME"] = "/caches";
      expect(cacheDirectory()).toBe("/caches/flashbun");
      process.env["XDG_CACHE_HOME"] = "";
      expect(cacheDirectory()).toEndWith("/.cache/flashbun");
    } finally {
      process.env["FLASHBUN_CACHE"] = saved["FLASHBUN_CACHE"];
      process.env["XDG_CACHE_HOME"] = saved["XDG_CACHE_HOME"];
      for (const name of ["FLASHBUN_CACHE", "XDG_CACHE_HOME"])
        if (saved[name] === undefined) delete process.env[name];
    }
  });
});

describe("a file that is not what it should be", () => {
  const damages: [string, (file: Buffer) => Uint8Array][] = [
    ["cut in the header", (file) => file.subarray(0, 20)],
    ["cut before the content", (file) => file.subarray(0, 49)],
    ["cut in the content", (file) => file.subarray(0, file.length - 1)],
    ["longer", (file) => Buffer.concat([file, Buffer.from([0])])],
    ["empty", () => new Uint8Array(0)],
    ["of another kind", () => Buffer.from("#!/bin/sh\n".repeat(20))],
    ["changed in its seal", (file) => file.fill(0, 30, 31)],
    ["changed in its content", (file) => file.fill(99, 500, 501)],
  ];
  test.each(damages)("%s: it is reported once and written anew", (_, damage) => {
    new ImageCache(directory).write(hash, image, "a kernel");
    writeFileSync(pathOf(hash), damage(readFileSync(pathOf(hash))));
    const cache = new ImageCache(directory);
    expect(cache.read(hash)).toBeUndefined();
    expect(cache.read(hash)).toBeUndefined();
    expect(warned()).toEqual([expect.stringContaining(`foreign file, ${hash}.image`)]);
    cache.write(hash, image, "a kernel");
    expect(cache.read(hash)).toEqual(image);
  });

  test("the image of another hash under this name", () => {
    const cache = new ImageCache(directory);
    cache.write(other, image, "a kernel");
    writeFileSync(pathOf(hash), readFileSync(pathOf(other)));
    expect(cache.read(hash)).toBeUndefined();
    expect(warned()).toHaveLength(1);
  });

  test("a folder", () => {
    mkdirSync(pathOf(hash), { recursive: true, mode: 0o700 });
    const cache = new ImageCache(directory);
    expect(cache.read(hash)).toBeUndefined();
    cache.write(hash, image, "a kernel");
    expect(warned()).toHaveLength(2);
    expect(readdirSync(directory)).toEqual([`${hash}.image`]);
  });
});

describe("what the cache holds", () => {
  test("is listed with labels, damaged files without", () => {
    const cache = new ImageCache(directory);
    expect(cache.list()).toEqual([]);
    cache.write(hash, image, "sm_90a page/page.cu");
    cache.write(other, new Uint8Array(9), "");
    writeFileSync(join(directory, "notes.txt"), "not ours");
    writeFileSync(`${pathOf(hash)}.1.2.part`, "half of an image");
    const labels = () => new Map(cache.list()!.map(({ hash: name, label }) => [name, label]));
    expect([...labels()].sort()).toEqual([
      [hash, "sm_90a page/page.cu"],
      [other, ""],
    ]);
    writeFileSync(pathOf(other), "damaged");
    expect(labels().get(other)).toBeUndefined();
    const when = new Date("2026-01-02T03:04:05Z");
    utimesSync(pathOf(hash), when, when);
    const found = cache.list()!.find((listed) => listed.hash === hash)!;
    expect(found.used).toEqual(when);
    const bytes = statSync(pathOf(hash)).size + statSync(pathOf(other)).size;
    expect(cache.contents()).toEqual({ images: 2, bytes });
  });

  test("keeps what was used last within its bound", () => {
    const third = "2".repeat(64);
    new ImageCache(directory).write(hash, image, "");
    const { size } = statSync(pathOf(hash));
    const cache = new ImageCache(directory, 2 * size);
    cache.write(other, image, "");
    const [long, longer] = [new Date("2026-01-02T03:04:05Z"), new Date("2025-01-02T03:04:05Z")];
    utimesSync(pathOf(hash), longer, longer);
    utimesSync(pathOf(other), long, long);
    expect(cache.read(hash)).toEqual(image);
    cache.write(third, image, "");
    expect(
      cache
        .list()!
        .map((listed) => listed.hash)
        .sort(),
    ).toEqual([hash, third]);
    // One image that is larger than the bound stays until the next one is written.
    const large = new ImageCache(directory, size / 2);
    large.write(other, image, "");
    expect(large.list()!.map((listed) => listed.hash)).toEqual([other]);
    expect(warned()).toEqual([]);
  });

  test("is cleared of its own files only", () => {
    const cache = new ImageCache(directory);
    expect(cache.clear()).toEqual({ images: 0, bytes: 0 });
    cache.write(hash, image, "");
    cache.write(other, image, "");
    writeFileSync(join(directory, "notes.txt"), "not ours");
    writeFileSync(`${pathOf(hash)}.1.2.part`, "12345");
    const { size } = statSync(pathOf(hash));
    expect(cache.clear()).toEqual({ images: 2, bytes: 2 * size + 5 });
    expect(readdirSync(directory)).toEqual(["notes.txt"]);
    expect(cache.read(hash)).toBeUndefined();
    expect(warned()).toEqual([]);
  });

  test("of a directory that others may write to is nothing", () => {
    new ImageCache(directory).write(hash, image, "");
    chmodSync(directory, 0o777);
    const cache = new ImageCache(directory);
    expect([cache.list(), cache.contents(), cache.clear()]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
    expect(existsSync(pathOf(hash))).toBe(true);
  });
});

describe("a directory that cannot be used", () => {
  test("below a file: reported once, nothing thrown", () => {
    writeFileSync(join(base, "below"), "");
    const cache = new ImageCache(directory);
    for (const _ of [0, 1]) {
      cache.write(hash, image, "a kernel");
      expect(cache.read(hash)).toBeUndefined();
    }
    expect(warned()).toEqual([
      expect.stringContaining("cannot be written"),
      expect.stringContaining("cannot be read"),
    ]);
  });

  test("read-only: what it has is read", async () => {
    new ImageCache(directory).write(hash, image, "a kernel");
    chmodSync(directory, 0o500);
    // Root may write everywhere, so it becomes a user who owns only this directory.
    const uid = process.getuid!() || 65534;
    for (const path of [base, join(base, "below")]) chmodSync(path, 0o755);
    for (const path of [directory, pathOf(hash)]) chownSync(path, uid, -1);
    const { stdout, stderr, code } = await runProgram(`
      if (process.getuid() === 0) process.setuid(${uid});
      process.stdout.write(String(cache.read("${hash}")?.length));
      cache.write("${other}", new Uint8Array(9), "");
      cache.write("${other}", new Uint8Array(9), "");`);
    expect(stderr.match(/cannot be written \(EACCES\)/g)).toHaveLength(1);
    expect({ code, stdout }).toEqual({ code: 0, stdout: "1000" });
    expect(existsSync(pathOf(other))).toBe(false);
  });

  test("that others may write to is not used at all", () => {
    new ImageCache(directory).write(hash, image, "a kernel");
    chmodSync(directory, 0o777);
    const cache = new ImageCache(directory);
    expect(cache.read(hash)).toBeUndefined();
    cache.write(other, image, "a kernel");
    expect(existsSync(pathOf(other))).toBe(false);
    expect(warned()).toEqual([expect.stringContaining("not this user's alone")]);
  });

  test("full: the run goes on, no piece of a file stays", async () => {
    // A limit on the size of files fails a write half-way, as a full disk does.
    const { stdout, stderr, code } = await runProgram(
      `
      cache.write("${hash}", new Uint8Array(1 << 20), "");
      cache.write("${other}", new Uint8Array(1 << 20), "");
      process.stdout.write(String(cache.read("${hash}")));`,
      ["bash", "-c", 'trap "" XFSZ; ulimit -f 64; exec "$0" "$1"'],
    );
    expect(stderr.match(/cannot be written/g)).toHaveLength(1);
    expect({ code, stdout }).toEqual({ code: 0, stdout: "undefined" });
    expect(readdirSync(directory)).toEqual([]);
  });
});

test("eight processes at once read and write the same images", async () => {
  const program = `
    for (let round = 0; round < 300; round++) {
      const name = String(round % 10).repeat(64);
      const found = cache.read(name);
      if (found === undefined || round % 3 === 0)
        cache.write(name, new Uint8Array(50_000).fill(round % 10), "");
      if (found?.some((byte) => byte !== round % 10)) throw new Error("a torn image");
    }`;
  const ended = await Promise.all(Array.from({ length: 8 }, () => runProgram(program)));
  for (const { code, stderr } of ended) expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const names = Array.from({ length: 10 }, (_, i) => `${String(i).repeat(64)}.image`);
  expect(readdirSync(directory).sort()).toEqual(names);
});
