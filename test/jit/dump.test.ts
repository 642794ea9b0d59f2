import { afterEach, expect, spyOn, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { dumpSource } from "../../src/jit/dump.ts";

const base = mkdtempSync(join(tmpdir(), "flashbun-dump-"));

afterEach(() => {
  delete process.env["FLASHBUN_DUMP"];
  rmSync(base, { recursive: true, force: true });
});

test("texts are written where FLASHBUN_DUMP says, one file a text", () => {
  dumpSource("attention/tiled/decode.cu", "nobody asked");
  const folder = (process.env["FLASHBUN_DUMP"] = join(base, "new", "folder"));
  dumpSource("attention/tiled/decode.cu", "one");
  dumpSource("attention/tiled/decode.cu", "two");
  dumpSource("attention/tiled/decode.cu", "one");
  dumpSource("variant ../../my/cap", "bytecode");
  const names = readdirSync(folder).sort();
  expect(names).toEqual([
    expect.stringMatching(/^attention-tiled-decode\.[0-9a-f]{12}\.cu$/),
    expect.stringMatching(/^attention-tiled-decode\.[0-9a-f]{12}\.cu$/),
    expect.stringMatching(/^variant-[.-]*my-cap\.[0-9a-f]{12}\.txt$/),
  ]);
  const texts = names.map((name) => readFileSync(join(folder, name), "utf8"));
  expect(texts.sort()).toEqual(["bytecode", "one", "two"]);
});

test("a folder that cannot be written is warned of, nothing is thrown", () => {
  const warnings = spyOn(process, "emitWarning").mockImplementation(() => {});
  try {
    process.env["FLASHBUN_DUMP"] = join(base, "file", "below");
    rmSync(base, { recursive: true, force: true });
    writeFileSync(base, "");
    dumpSource("page/page.cu", "a text");
    expect(warnings.mock.calls.map(([message]) => String(message))).toEqual([
      expect.stringContaining("cannot be written (ENOTDIR)"),
    ]);
  } finally {
    warnings.mockRestore();
  }
});
