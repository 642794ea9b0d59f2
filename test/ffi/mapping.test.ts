import { afterAll, expect, test } from "bun:test";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mapReadOnly } from "../../src/ffi/mapping.ts";

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
