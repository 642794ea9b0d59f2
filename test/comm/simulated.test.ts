import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import figures from "../../bench/ranks/figures.json";
import { betweenTokensMs, tables } from "../../bench/ranks/simulate.ts";
import { root } from "../support/sources.ts";

const page = readFileSync(join(root, "docs/parallel.md"), "utf8");

test("the page has the simulated tables, as they are computed", () => {
  expect(page).toContain(tables());
});

test("the figures that they are computed from are those of the page", () => {
  const { shape: _, ...times } = figures.betweenTokensMs;
  for (const time of Object.values(times)) expect(page).toContain(`${time} ms`);
  for (const [bytes, us] of figures.allReduceInGraphUs) {
    const size = bytes < 2 ** 20 ? `${bytes / 1024} KB` : `${bytes / 2 ** 20} MB`;
    expect(page).toMatch(new RegExp(`\\| ${size} \\|.*\\| ${us.toFixed(1)} us \\|`));
  }
});

test("what was measured is what is computed of it", () => {
  const reduceUs = figures.allReduceInGraphUs[0][1];
  expect(betweenTokensMs("llama-8b", 1, 0)).toBeCloseTo(figures.betweenTokensMs["1"], 9);
  expect(betweenTokensMs("llama-8b", 2, reduceUs)).toBeCloseTo(figures.betweenTokensMs["2"], 9);
});
