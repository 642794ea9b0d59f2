import { expect, test } from "bun:test";
import { join } from "node:path";
import { cpuClasses } from "../../src/attention/families/cpu.ts";
import { coverageOf } from "../../src/plan/coverage.ts";
import { Planner } from "../../src/plan/planner.ts";
import {
  blockMask,
  documentMask,
  prefixLm,
  slidingWindowWithSinks,
} from "../../src/variant/library.ts";
import type { Visible } from "../../src/variant/variant.ts";
import { root } from "../support/sources.ts";
import { pagedBatch } from "./example.ts";

const tokens = 4096;
const block = 128;
const starts = [0, 700, 1000, 2100, 2200, 3900];
const blocks = tokens / block;

/** Which query blocks see which key blocks, row after row. */
function blocksWhere(seen: (query: number, key: number) => boolean): Uint8Array {
  return Uint8Array.from({ length: blocks * blocks }, (_, i) =>
    Number(seen(Math.floor(i / blocks), i % blocks)),
  );
}

const dilated = blocksWhere((query, key) => key <= query && (query - key) % 4 === 0);
const scattered = blocksWhere((query, key) => (query * 5 + key * 3) % 8 < 2);
const documentOf = (position: number) => starts.findLastIndex((start) => start <= position);
const blockAt = (of: Uint8Array, query: number, key: number) =>
  of[Math.floor(query / block) * blocks + Math.floor(key / block)] !== 0;

/** A mask: what its variant makes visible to the planner, and what it means. */
const masks: [string, Visible, (query: number, key: number) => boolean][] = [
  [
    "causal, as a variant",
    ({ queryStart, queryEnd }, ranges) => {
      ranges.add(0, queryStart + 1, true);
      ranges.add(queryStart + 1, queryEnd, false);
    },
    (query, key) => key <= query,
  ],
  [
    "window 1024 with 4 sinks",
    slidingWindowWithSinks({ window: 1024, sinks: 4 }).visible!,
    (query, key) => key <= query && (query - key <= 1024 || key < 4),
  ],
  [
    "prefix LM, prefix 1000",
    prefixLm({ prefixes: [1000] }).visible!,
    (query, key) => key <= query || key < 1000,
  ],
  [
    "six documents, causal",
    documentMask({ causal: true, starts: () => starts }).visible!,
    (query, key) => key <= query && documentOf(query) === documentOf(key),
  ],
  [
    "dilated: every 4th block, causal",
    blockMask({ block, columns: blocks, seen: dilated }).visible!,
    (query, key) => blockAt(dilated, query, key),
  ],
  [
    "blocks: 1 in 4",
    blockMask({ block, columns: blocks, seen: scattered }).visible!,
    (query, key) => blockAt(scattered, query, key),
  ],
];

/**
 * Parts of the square, of pairs in blocks of 128 x 128 with a visible pair and without a hidden
 * one.
 */
function blockMaskOf(sees: (query: number, key: number) => boolean): [number, number] {
  let [some, all] = [0, 0];
  for (let row = 0; row < tokens; row += block) {
    for (let column = 0; column < tokens; column += block) {
      let seen = 0;
      for (let query = row; query < row + block; query++)
        for (let key = column; key < column + block; key++) seen += Number(sees(query, key));
      some += Number(seen > 0);
      all += Number(seen === block * block);
    }
  }
  return [some / blocks ** 2, all / blocks ** 2];
}

const percent = (part: number) => `${(100 * part).toFixed(1)} %`;

/** The rows of a page's tables as their cells, whatever pads them. */
function tableRows(page: string): string[][] {
  const rows = page.split("\n").filter((line) => line.startsWith("|"));
  return rows.map((line) => line.split("|").slice(1, -1)).map((row) => row.map((x) => x.trim()));
}

test("masks of the library leave no more than a block mask; docs/variants.md has the figures", async () => {
  const rows = tableRows(await Bun.file(join(root, "docs/variants.md")).text());
  const shape = { queryHeads: 32, kvHeads: 8, valueDim: 128 };
  const batch = pagedBatch([tokens], [tokens]);
  for (const [name, visible, sees] of masks) {
    const options = { ...shape, processors: 8, classes: cpuClasses, hookMasks: true, visible };
    const plan = new Planner(options).plan(batch);
    const { all, planned, full } = coverageOf(plan, batch);
    const [some, whole] = blockMaskOf(sees);
    const parts = [planned / all, (planned - full) / all, some, some - whole];
    expect(planned / all).toBeLessThanOrEqual(some);
    expect(rows).toContainEqual([name, ...parts.map(percent)]);
  }
}, 120_000);
