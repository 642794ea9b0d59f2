import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { atUsersLine } from "../../../src/attention/variant/errors.ts";
import { CompileError, OptionError } from "../../../src/errors.ts";
import type { Variant } from "../../../src/variant/variant.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-lines-"));
afterAll(() => rmSync(folder, { recursive: true }));

const source = "\nfloat logits() {\n    return wrong;\n}";

/** A variant that was defined at a line of a file, whose source begins at another. */
function variantAt(file: string, line: number, name = "cap (v2)"): Variant {
  const nothing = { tensors: [], scalars: [], hooks: {}, softmax: true, visible: undefined };
  return { name, ...nothing, cuda: { source, hooks: ["logits"], place: { file, line } } };
}

/** The first line of the message for an error in the source's third line. */
function told(variant: Variant, log: string): string {
  const error = atUsersLine(new CompileError(`did not compile\n${log}`, log), variant);
  expect(error).toBeInstanceOf(CompileError);
  expect((error as CompileError).message).toContain("FLASHBUN_DUMP=DIR");
  return (error as CompileError).log;
}

const nvrtc = "variant cap (v2)(3): error: wrong is undefined";
const clang = "variant cap (v2):3:12: error: wrong is undefined";

test("lines of a source are lines of the file where it stands", () => {
  const file = join(folder, "behind.ts");
  writeFileSync(file, `import x;\n\ndefineCudaVariant({\n  source: \`${source}\`,\n});\n`);
  expect(told(variantAt(file, 3), nvrtc)).toBe(`${file}:6: error: wrong is undefined`);
  expect(told(variantAt(file, 3), clang)).toBe(`${file}:6:12: error: wrong is undefined`);
});

test("a source in a constant before, or twice, is the nearest one", () => {
  const file = join(folder, "before.ts");
  const text = `const source = \`${source}\`;\n\ndefineCudaVariant({ source });\n`;
  writeFileSync(file, text);
  expect(told(variantAt(file, 6), nvrtc)).toStartWith(`${file}:3:`);
  writeFileSync(file, `${text}${text}`);
  expect(told(variantAt(file, 12), nvrtc)).toStartWith(`${file}:9:`);
});

test("where the source is nowhere to be seen, the definition's line stands for its first", () => {
  const file = join(folder, "made.ts");
  writeFileSync(file, "defineCudaVariant({ source: make() });\n");
  expect(told(variantAt(file, 1), nvrtc)).toStartWith(`${file}:3:`);
  expect(told(variantAt("/absent/file.ts", 7), nvrtc)).toStartWith("/absent/file.ts:9:");
});

test("other errors, and lines that are not the source's, stay as they are", () => {
  const variant = variantAt(join(folder, "x.ts"), 1);
  const other = new OptionError("x", 1, "2", "make it 2.");
  expect(atUsersLine(other, variant)).toBe(other);
  const compile = new CompileError("no", "attention/variant.h(9): error");
  expect(atUsersLine(compile, undefined)).toBe(compile);
  expect(told(variant, "attention/variant.h(9): error")).toBe("attention/variant.h(9): error");
});
