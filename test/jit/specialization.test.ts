import { describe, expect, test } from "bun:test";
import { OptionError } from "../../src/errors.ts";
import {
  describeSpecialization,
  expand,
  expandSource,
  identify,
  imageHash,
  type Specialization,
} from "../../src/jit/specialization.ts";

const files = {
  "page/copy.cu": '#include "../ptx/base.h"\n#include "shape.h"\nint copy;\n',
  "page/shape.h": '#pragma once\n#include "ptx/base.h"\nint shape;\n',
  "ptx/base.h": "#pragma once\n#ifdef FB_EMULATED\n#include <emulation.h>\n#endif\nint base;\n",
};

describe("expansion", () => {
  test("puts each include in place once, and says what line of which file follows", () => {
    const lines = [
      '#line 1 "page/copy.cu"',
      '#line 1 "ptx/base.h"',
      "",
      "#ifdef FB_EMULATED",
      "#include <emulation.h>",
      "#endif",
      "int base;",
      '#line 2 "page/copy.cu"',
      '#line 1 "page/shape.h"',
      "",
      '#line 3 "page/shape.h"',
      "int shape;",
      '#line 3 "page/copy.cu"',
      "int copy;",
    ];
    expect(expandSource("page/copy.cu", files).split("\n")).toEqual(lines);
  });

  test("leaves includes of others alone", () => {
    const text = '#include "other.h"\n#include <stdint.h>';
    expect(expandSource("a.cu", { "a.cu": text })).toBe(`#line 1 "a.cu"\n${text}`);
  });

  test("ends where headers include each other", () => {
    const circle = { "a.cu": '#include "b.h"\nint a;', "b.h": '#include "a.cu"\nint b;' };
    expect(expandSource("a.cu", circle).match(/^int .*/gm)).toEqual(["int b;", "int a;"]);
  });

  test("refuses an include that only some conditions see", () => {
    const text = '#if FB_PAGED\n  # include "b.h"\n#endif';
    const conditional = { "a.cu": text, "b.h": "" };
    expect(() => expandSource("a.cu", conditional)).toThrow('"a.cu:2"');
  });

  test("names the sources there are when one is missing", () => {
    for (const name of ["page/none.cu", "constructor", ""])
      expect(() => expandSource(name, files)).toThrow("one of page/copy.cu");
  });

  test("puts constants first, by name", () => {
    const constants = { FB_VALUE_DIM: 64, FB_KEY_DIM: 128, FB_NAME: "float" };
    const text = expand({ source: "page/page.cu", constants });
    const defines = "#define FB_KEY_DIM 128\n#define FB_NAME float\n#define FB_VALUE_DIM 64\n";
    expect(text).toStartWith(`${defines}#line 1 "page/page.cu"\n`);
    const other = { FB_NAME: "float", FB_VALUE_DIM: 64, FB_KEY_DIM: 128 };
    expect(expand({ source: "page/page.cu", constants: other })).toBe(text);
  });

  test("puts a variant's text where attention/variant.h has its own, behind what that includes", () => {
    const source = "attention/merge.cu";
    const plain = expand({ source, constants: {} });
    const variant = "struct Variant : NoVariant {\n    int odd;\n};\n";
    const text = expand({ source, constants: {}, variant });
    expect(plain).toContain("struct Variant : NoVariant {};");
    expect(text).not.toContain("struct Variant : NoVariant {};");
    const [before, after] = text.split(`#line 1 "attention/variant.h"\n${variant}`);
    expect(before).toContain("struct NoVariant {");
    expect(after).toMatch(/^#line \d+ "attention\/project.h"\n/);
    expect(after).toContain("FB_KERNEL(attention_merge");
    const other = expand({ source, constants: {}, variant: variant.replace("odd", "even") });
    expect(imageHash(text, "sm_90a", "c")).not.toBe(imageHash(other, "sm_90a", "c"));
    expect(expand({ source, constants: {} })).toBe(plain);
  });

  test("is identified by less, which differs where the text does", () => {
    const source = "attention/merge.cu";
    const variant = "struct Variant : NoVariant {\n    int odd;\n};\n";
    const all: Specialization[] = [
      { source, constants: {} },
      { source, constants: { FB_X: 1 } },
      { source, constants: { FB_X: 11 } },
      { source, constants: { FB_X: 1 }, variant },
      { source, constants: { FB_X: 1 }, variant: variant.replace("odd", "even") },
      { source: "attention/tiled/decode.cu", constants: { FB_X: 1 }, variant },
      { source: "page/page.cu", constants: {} },
    ];
    expect(new Set(all.map(identify)).size).toBe(all.length);
    expect(Math.max(...all.map((each) => identify(each).length))).toBeLessThan(600);
    // A source without a place for variants.
    const [first, second] = [undefined, variant].map((each) => {
      const page = { source: "page/page.cu", constants: {}, variant: each };
      return { text: expand(page), identity: identify(page) };
    });
    expect(second).toEqual(first);
    expect(() => identify({ source, constants: { "FB X": 1 } })).toThrow(OptionError);
  });

  const bad: [string, Record<string, number | string>][] = [
    ["a name with a space", { "FB X": 1 }],
    ["a name that starts with a digit", { "1X": 1 }],
    ["a value of two lines", { FB_X: "1\n#include <stdio.h>" }],
    ["a value that joins the next line", { FB_X: "1 \\" }],
    ["no number", { FB_X: NaN }],
    ["no finite number", { FB_X: Infinity }],
  ];
  test.each(bad)("refuses %s as a constant", (_, constants) => {
    expect(() => expand({ source: "page/page.cu", constants })).toThrow(OptionError);
  });
});

describe("the hash", () => {
  const hash = imageHash("int x;", "sm_90a", "cuda-13.0");

  test("is the same for ever", () => {
    expect(hash).toBe("fe6304eb09b6083edfbc0a5aa8f880c802c1a94dc60928ec896e7b7004919ed9");
    expect(imageHash("int x;", "sm_90a", "cuda-13.0")).toBe(hash);
  });

  test("differs by text, architecture and compiler, wherever one ends", () => {
    const others = [
      imageHash("int y;", "sm_90a", "cuda-13.0"),
      imageHash("int x;", "sm_80", "cuda-13.0"),
      imageHash("int x;", "sm_90a", "cuda-13.1"),
      imageHash("int x;s", "m_90a", "cuda-13.0"),
      imageHash("", "int x;sm_90a", "cuda-13.0"),
    ];
    expect(new Set([hash, ...others]).size).toBe(others.length + 1);
  });
});

test("a specialisation is described by its source and constants", () => {
  const constants = { FB_B: 2, FB_A: 1 };
  expect(describeSpecialization({ source: "a.cu", constants })).toBe("a.cu (FB_A=1, FB_B=2)");
  expect(describeSpecialization({ source: "a.cu", constants: {} })).toBe("a.cu");
});
