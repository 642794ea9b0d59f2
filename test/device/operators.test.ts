import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { operators } from "../../src/device/operators.ts";
import { root } from "../support/zig.ts";

/** Rows of an item, by the macro of the source that states them. */
const rowMacros: Record<string, string> = {
  append: "APPEND_ROWS",
  random_normal: "TENSOR_ELEMENTS",
  fill: "TENSOR_ELEMENTS",
  convert: "TENSOR_ELEMENTS",
  gather_rows: "GATHER_ROWS",
  merge_states: "MERGE_ROWS",
};

test.each(Object.entries(operators))("the table says what %s says", (source, list) => {
  const text = readFileSync(join(root, "kernels", source), "utf8");
  const macro = (name: string) => Number(new RegExp(`#define ${name} (\\d+)`).exec(text)?.[1]);
  const kernels = [...text.matchAll(/^FB_KERNEL\((\w+), \w+, (\w+), \d+\)/gm)];
  const stated = kernels.map(([, name, threads]) => ({
    name,
    threads: macro(threads),
    itemRows: name in rowMacros ? macro(rowMacros[name]) : 1,
  }));
  expect(list.toSorted(byName)).toEqual(stated.toSorted(byName));
});

function byName(a: { name: string }, b: { name: string }): number {
  return a.name < b.name ? -1 : 1;
}
