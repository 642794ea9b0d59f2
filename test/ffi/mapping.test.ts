import { afterAll, expect, test } from "bun:test";
import {
  closeSync,
  copyFileSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { copyRange, mapReadOnly, releasePages } from "../../src/ffi/mapping.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-mapping-"));
const program = join(folder, "program-that-is-mapped");
copyFileSync("/bin/true", program);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Mappings of the program in this process, as the system lists them. */
const mappings = () =>
  readFileSync("/proc/self/maps", "utf8")
    .split("\n")
    .filter((line) => line.endsWith(program));

test("a file is mapped for reading alone, and stays a program that can be started", () => {
  const data = mapReadOnly(program);
  expect(mappings().map((line) => line.split(" ")[1])).toEqual(["r--p"]);
  expect(Buffer.compare(data, readFileSync(program))).toBe(0);
  expect(Bun.spawnSync([program]).exitCode).toBe(0);
});

test("mappings end with their last view, and not before", () => {
  const views = Array.from({ length: 100 }, () => mapReadOnly(program).subarray(4096, 4100));
  Bun.gc(true);
  const bytes = readFileSync(program).subarray(4096, 4100);
  for (const view of views) expect(Buffer.compare(view, bytes)).toBe(0);
  expect(mappings().length).toBeGreaterThan(90);
  views.length = 0;
  for (let round = 0; round < 3; round++) Bun.gc(true);
  // Something on the stack may still hold the last few.
  expect(mappings().length).toBeLessThan(10);
});

test("no file, a folder, and a file without bytes", () => {
  expect(() => mapReadOnly(join(folder, "none"))).toThrow("ENOENT");
  expect(() => mapReadOnly(folder)).toThrow("EISDIR");
  writeFileSync(join(folder, "empty"), "");
  expect(mapReadOnly(join(folder, "empty"))).toEqual(new Uint8Array());
});

test("released pages are no memory in use, and are read again", () => {
  const large = join(folder, "large");
  const bytes = Buffer.alloc(2 ** 22, "every byte is read ");
  writeFileSync(large, bytes);
  const data = mapReadOnly(large);
  const residentBytes = () => {
    const maps = readFileSync("/proc/self/smaps", "utf8");
    const at = maps.indexOf("Rss:", maps.indexOf(large));
    return 1024 * parseInt(maps.slice(at + 4));
  };
  const isWhole = () => Buffer.compare(data, bytes) === 0;
  expect(isWhole()).toBe(true);
  expect(residentBytes()).toBe(2 ** 22);
  releasePages(data.subarray(100, 2 ** 21 - 100));
  // Pages that are not whole may stay; a system that maps large pages lets go of all of one.
  expect(residentBytes()).toBeWithin(2 ** 21, 2 ** 21 + 2 * 65_536 + 1);
  releasePages(data);
  expect(residentBytes()).toBe(0);
  expect(isWhole()).toBe(true);
});

test("memory that is no mapping is not released", () => {
  const own = new Uint8Array(2 ** 20).fill(7);
  releasePages(own);
  expect(own.every((byte) => byte === 7)).toBe(true);
});

test("runs are copied between open files, as far as they are there", () => {
  const bytes = Buffer.from(Array.from({ length: 10_000 }, (_, at) => at * 7));
  const [source, target] = ["source", "target"].map((name) => join(folder, name));
  writeFileSync(source, bytes);
  writeFileSync(target, "before");
  const from = openSync(source, "r");
  const to = openSync(target, "r+");
  expect(copyRange(from, 123, to, 6, 5000)).toBe(5000);
  expect(copyRange(from, 9990, to, 5006, 100)).toBe(10);
  expect(copyRange(from, 0, to, 0, 0)).toBe(0);
  const expected = [Buffer.from("before"), bytes.subarray(123, 5123), bytes.subarray(9990)];
  expect(Buffer.compare(readFileSync(target), Buffer.concat(expected))).toBe(0);
  // A file that is open for reading alone is not written to.
  expect(copyRange(to, 0, from, 0, 100)).toBe(0);
  closeSync(from);
  closeSync(to);
});
