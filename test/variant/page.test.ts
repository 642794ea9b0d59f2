import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { variantsPage } from "../../scripts/variants-page.ts";
import { root } from "../support/sources.ts";

const page = readFileSync(join(root, "docs", "variants.md"), "utf8");

test("docs/variants.md shows what its examples become; else: bun run variants-page", async () => {
  expect(await variantsPage()).toBe(page);
  expect(page.match(/^```cuda\n(?!```)/gm)).toHaveLength(11);
});

test("text below an example that is not its own is replaced", async () => {
  const stale = page.replace("const float t13 = tanh_f32", "const float t13 = sin_f32");
  expect(stale).not.toBe(page);
  expect(await variantsPage(stale)).toBe(page);
});
