import { dlopen, type FFIFunction } from "bun:ffi";
import { expect, test } from "bun:test";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { abiFiles } from "../../scripts/abi.ts";
import { libraryPath } from "../../src/ffi/library.ts";
import {
  AttentionMapParams,
  AttentionParams,
  AttentionRecord,
  TensorMap,
} from "../../src/ffi/params.gen.ts";
import { symbols } from "../../src/ffi/symbols.ts";
import { AttentionRecordField, attentionRecordInts } from "../../src/plan/record.gen.ts";
import { root, zigBuild } from "../support/zig.ts";

/** Names of the defined dynamic symbols, read from the ELF file as `nm -D --defined-only` does. */
function exportedNames(path: string): string[] {
  const bytes = readFileSync(path);
  const u64 = (at: number) => Number(bytes.readBigUInt64LE(at));
  const sectionsAt = u64(0x28);
  const sections = Array.from({ length: bytes.readUInt16LE(0x3c) }, (_, i) => {
    const at = sectionsAt + i * bytes.readUInt16LE(0x3a);
    return {
      type: bytes.readUInt32LE(at + 4),
      offset: u64(at + 24),
      size: u64(at + 32),
      link: bytes.readUInt32LE(at + 40),
    };
  });
  const dynamic = sections.find(({ type }) => type === 11)!;
  const strings = sections[dynamic.link];
  const names: string[] = [];
  for (let at = dynamic.offset; at < dynamic.offset + dynamic.size; at += 24) {
    const defined = bytes.readUInt16LE(at + 6) !== 0;
    if (!defined) continue;
    const start = strings.offset + bytes.readUInt32LE(at);
    names.push(bytes.toString("utf8", start, bytes.indexOf(0, start)));
  }
  return names.sort();
}

test("the library exports exactly what the symbol table declares", () => {
  expect(exportedNames(libraryPath())).toEqual(Object.keys(symbols).sort());
});

test("the library stays under 4 MB", () => {
  expect(statSync(libraryPath()).size).toBeLessThan(4 << 20);
});

test("what is generated from kernels/params is what its headers say", async () => {
  const { code, stdout, stderr } = await zigBuild("abi");
  expect(stderr).toBe("");
  expect(code).toBe(0);
  const files = abiFiles(stdout);
  expect([...files.keys()]).toEqual(["src/ffi/params.gen.ts", "src/plan/record.gen.ts"]);
  for (const [path, text] of files) expect(text).toBe(readFileSync(join(root, path), "utf8"));
}, 300_000);

test("tensor maps and parameters within a struct share its memory", () => {
  const memory = new ArrayBuffer(64 + AttentionMapParams.byteLength);
  const params = new AttentionMapParams(memory, 64);
  expect(AttentionMapParams.byteLength % 64).toBe(0);
  params.v.view.fill(7);
  params.attention.scale = 0.25;
  params.attention.kData = 2 ** 40;
  const bytes = new Uint8Array(memory);
  expect(bytes.indexOf(7)).toBe(64 + 2 * TensorMap.byteLength);
  expect(bytes.lastIndexOf(7)).toBe(64 + 3 * TensorMap.byteLength - 1);
  const plain = new AttentionParams(memory, 64 + 4 * TensorMap.byteLength);
  expect([plain.scale, plain.kData]).toEqual([0.25, 2 ** 40]);
});

test("offsets of a record are those of its packer", () => {
  const record = new AttentionRecord();
  record.kvStart = 5;
  record.level = 3;
  expect(record.i32[AttentionRecordField.kvStart]).toBe(5);
  expect(record.i32[AttentionRecordField.level]).toBe(3);
  expect(4 * attentionRecordInts).toBe(AttentionRecord.byteLength);
});

test("packers write 64-bit values as two halves and floats in place", () => {
  const params = new AttentionParams();
  for (const value of [0, 1, -1, 2 ** 31, 2 ** 32 + 5, 2 ** 47 - 1, -(2 ** 40), -(2 ** 32)]) {
    params.qStrideToken = value;
    expect(params.qStrideToken).toBe(value);
    const view = new DataView(params.view.buffer);
    const at = 5 * 32 + 3 * 40 + 4 * 8;
    expect(view.getBigInt64(at, true)).toBe(BigInt(value));
  }
  params.scale = 0.125;
  expect(params.scale).toBe(0.125);
});

test("a record is 64 bytes, a tensor map 128", () => {
  expect(AttentionRecord.byteLength).toBe(64);
  expect(TensorMap.byteLength).toBe(128);
});

test("native functions refuse null handles and say so", () => {
  const { symbols: opened } = dlopen(libraryPath(), symbols as Record<string, FFIFunction>);
  const raw = opened as unknown as Record<string, (...values: unknown[]) => number>;
  for (const [name, { args }] of Object.entries(symbols)) {
    if (args[0] !== "ptr" || ["fb_last_failure", "fb_driver_open"].includes(name)) continue;
    const values = args.map((type) => (type === "ptr" ? null : 1));
    if (name !== "fb_dlpack_deleter") expect(raw[name](...values)).not.toBe(0);
  }
});
