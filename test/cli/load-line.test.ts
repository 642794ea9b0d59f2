import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LoadLine, type LoadStream } from "../../src/cli/model/load-line.ts";
import { Engine, type LoadProgress } from "../../src/engine/index.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";

/** What is written while 2 GB come in 25 s, a tenth of a second after the other. */
function written(isTTY: boolean): string[] {
  const lines: string[] = [];
  const stream = { isTTY, write: (line: string) => lines.push(line) > 0 };
  let ms = 0;
  using line = new LoadLine(stream as LoadStream, () => ms);
  for (; ms < 25_000; ms += 50) line.show({ bytes: ms * 8e4, totalBytes: 2e9 });
  line.end();
  return lines;
}

test("a terminal has one line that moves and goes", () => {
  const lines = written(true);
  expect(lines.length).toBe(10 * 25 - 5 + 1);
  expect(lines[0]).toBe("\r\x1b[Kflashbun: loading weights, 0.04 of 2.0 GB, 0.08 GB/s");
  expect(lines.at(-1)).toBe("\r\x1b[K");
});

test("the line of a terminal goes with the last bytes", () => {
  const lines: string[] = [];
  const stream = { isTTY: true, write: (line: string) => lines.push(line) > 0 };
  let ms = 0;
  using line = new LoadLine(stream as LoadStream, () => ms);
  for (; ms <= 1000; ms += 100) line.show({ bytes: ms, totalBytes: 1000 });
  expect(lines.at(-2)).toContain("loading weights");
  expect(lines.at(-1)).toBe("\r\x1b[K");
});

test("a log has a line every ten seconds", () => {
  expect(written(false)).toEqual([
    "flashbun: loading weights, 0.80 of 2.0 GB, 0.08 GB/s\n",
    "flashbun: loading weights, 1.6 of 2.0 GB, 0.08 GB/s\n",
  ]);
});

test("what loads at once shows nothing", () => {
  const lines: string[] = [];
  const stream = { isTTY: true, write: (line: string) => lines.push(line) > 0 };
  let ms = 0;
  using line = new LoadLine(stream as LoadStream, () => ms);
  for (; ms < 500; ms += 50) line.show({ bytes: ms });
  line.end();
  expect(lines).toEqual([]);
});

test("an engine tells how far its weights are, all of them at the end", async () => {
  const folder = mkdtempSync(join(tmpdir(), "flashbun-load-"));
  const shape = { layers: 1, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
  const path = writeFolder(folder, tinyModel(1, { ...shape, context: 64, tied: false }));
  const told: LoadProgress[] = [];
  const options = {
    dtype: "f32",
    onLoad: (progress: LoadProgress) => told.push(progress),
  } as const;
  await using _ = await Engine.load(path, options);
  rmSync(folder, { recursive: true });
  const bytes = told.map((progress) => progress.bytes);
  expect(bytes).toEqual(bytes.toSorted((a, b) => a - b));
  expect(new Set(bytes).size).toBeGreaterThan(5);
  expect(told.at(-1)!.bytes).toBe(told[0].totalBytes!);
});
