import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import figures from "../../bench/ranks/figures.json";
import { reduceShare, reducesOf } from "../../bench/ranks/serving.ts";
import { stepMs, tables } from "../../bench/ranks/simulate.ts";
import { root } from "../support/sources.ts";

const page = readFileSync(join(root, "docs/parallel.md"), "utf8");

test("the page has the simulated tables, as they are computed", () => {
  expect(page).toContain(tables());
});

test("the figures that they are computed from are those of the page", () => {
  for (const [bytes, us] of figures.allReduceInGraphUs) {
    const size = bytes < 2 ** 20 ? `${bytes / 1024} KB` : `${bytes / 2 ** 20} MB`;
    expect(page).toMatch(new RegExp(`\\| ${size} \\|.*\\| ${us.toFixed(1)} us \\|`));
  }
});

test("what was measured is what is computed of it", () => {
  for (const clients of [1, 64] as const)
    expect(stepMs("llama-8b", clients, 1, 0)).toBeCloseTo(figures.step.ms[clients], 9);
});

test("the share of all-reduces is that of their measured times", () => {
  const line = (size: string, us: number) => `${size}: 12.6 us one by one, ${us} us in a graph, 1`;
  const reduces = reducesOf(`${line("8 KB", 6.5)}\n${line("1 MB", 13.8)}\n`);
  expect(reduces).toEqual([
    [8192, 6.5],
    [1048576, 13.8],
  ]);
  expect(reduceShare("llama-8b", 1, 4, reduces)).toBeCloseTo((64 * 0.0065) / 4, 9);
  expect(reduceShare("llama-8b", 64, 4, reduces)).toBeCloseTo((64 * 0.0138) / 4, 9);
});
