import { describe, expect, test } from "bun:test";
import { closeSync, openSync, statSync, truncateSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { CheckpointError } from "../../src/weights/errors.ts";
import { openSafetensors, openSafetensorsFolder } from "../../src/weights/safetensors.ts";
import { columnsOf, rowsOf } from "../../src/weights/slice.ts";
import type { StoredTensor } from "../../src/weights/stored.ts";
import { unpack } from "../../src/weights/unpack.ts";
import { sweep } from "../support/deep.ts";
import { seeded } from "../support/random.ts";
import { safetensorsBytes, withHeader } from "../support/safetensors.ts";
import { testFolder } from "./folder.ts";

const write = testFolder();
const numbers = (values: readonly number[]) => ({
  dtype: "F32",
  shape: [values.length],
  bytes: new Uint8Array(new Float32Array(values).buffer),
});
const bf16 = { dtype: "BF16", shape: [1, 2], bytes: Uint8Array.of(0x80, 0x3f, 0x00, 0xc0) };

test("tensors come as they were written", () => {
  const tensors = openSafetensors(
    write("one.safetensors", safetensorsBytes({ a: numbers([1, 2.5]), b: bf16 })),
  );
  expect([...tensors.keys()]).toEqual(["a", "b"]);
  expect(unpack(tensors.get("a")!)).toEqual(Float32Array.of(1, 2.5));
  expect(tensors.get("b")!.shape).toEqual([1, 2]);
  expect(unpack(tensors.get("b")!)).toEqual(Float32Array.of(1, -2));
});

test("a folder's tensors are where its index says", () => {
  const folder = dirname(write("1.safetensors", safetensorsBytes({ a: numbers([1]) })));
  write("2.safetensors", safetensorsBytes({ b: numbers([2]), c: numbers([3]) }));
  const index = (map: object) =>
    write("model.safetensors.index.json", JSON.stringify({ weight_map: map }));
  index({ a: "1.safetensors", c: "2.safetensors" });
  expect([...openSafetensorsFolder(folder).keys()]).toEqual(["a", "c"]);
  index({ b: "1.safetensors" });
  expect(() => openSafetensorsFolder(folder)).toThrow(/tensor b is not in it/);
  index({ b: "../1.safetensors" });
  expect(() => openSafetensorsFolder(folder)).toThrow(/not the name of a file beside it/);
  index({ b: "3.safetensors" });
  expect(() => openSafetensorsFolder(folder)).toThrow(/3\.safetensors: it cannot be read/);
});

test("tensors lie beyond 4 GiB too", () => {
  const far = 5 * 2 ** 30;
  const header = JSON.stringify({
    x: { dtype: "F32", shape: [2], data_offsets: [far, far + 8] },
  });
  const start = withHeader(header);
  // A hole, which takes no room on the disk.
  const path = write("far.safetensors", start);
  const file = openSync(path, "r+");
  writeSync(file, new Uint8Array(Float32Array.of(3, 4).buffer), 0, 8, start.length + far);
  closeSync(file);
  expect(unpack(openSafetensors(path).get("x")!)).toEqual(Float32Array.of(3, 4));
});

test("parts of a tensor are read into memory, rows of it too, and never short", () => {
  const path = write("read.safetensors", safetensorsBytes({ a: bf16, x: numbers([1, 2, 3, 4]) }));
  const whole = openSafetensors(path).get("x")!;
  const values = (stored: StoredTensor, from: number, count: number) => {
    const into = new Float32Array(count);
    stored.read!(new Uint8Array(into.buffer), 4 * from);
    return [...into];
  };
  expect(values(whole, 1, 2)).toEqual([2, 3]);
  expect(values(rowsOf(whole, [[1, 4]]), 1, 2)).toEqual([3, 4]);
  // Neither lies in the file as it is.
  const parts: [number, number][] = [
    [0, 1],
    [2, 3],
  ];
  expect(rowsOf(whole, parts).read).toBeUndefined();
  expect(columnsOf(path, { ...whole, shape: [2, 2] }, [1, 2]).read).toBeUndefined();
  truncateSync(path, statSync(path).size - 4);
  expect(() => values(whole, 0, 4)).toThrow(/bytes \d+ to \d+ cannot be read .*shorter/);
});

describe("refused, by name", () => {
  const entry = (fields: object) =>
    JSON.stringify({ x: { dtype: "F32", shape: [1], data_offsets: [0, 4], ...fields } });
  const data = new Uint8Array(4);
  const wrong: [what: string, bytes: Uint8Array, said: RegExp][] = [
    ["no header", Uint8Array.of(9, 0, 0, 0, 0, 0, 0, 0), /more than the file can hold/],
    ["half a length", Uint8Array.of(9, 0), /ends within the length of the header/],
    ["broken JSON", withHeader("{x"), /its JSON is damaged/],
    ["a list", withHeader("[]"), /its JSON is no object/],
    ["an unknown dtype", withHeader(entry({ dtype: "F4" }), data), /is of "F4", and F64, F32/],
    ["a negative size", withHeader(entry({ shape: [-1] }), data), /tensor x has no shape/],
    ["one offset", withHeader(entry({ data_offsets: [0] }), data), /has no data_offsets/],
    ["bytes beyond the end", withHeader(entry({}), data.slice(1)), /lies at 0 to 4 of 3/],
    ["bytes that do not fit the shape", withHeader(entry({ shape: [2] }), data), /of 8 bytes/],
  ];
  test.each(wrong)("%s", (_, bytes, said) => {
    expect(() => openSafetensors(write("wrong.safetensors", bytes))).toThrow(said);
  });
});

sweep("damaged files open or are refused", { slice: 300, whole: 20_000 }, async (seed, cases) => {
  const random = seeded(seed);
  const whole = safetensorsBytes({ a: numbers([1, 2, 3]), b: bf16 });
  for (let i = 0; i < cases; i++) {
    const bytes = whole.slice(0, random.chance(0.3) ? random.integer(0, whole.length) : undefined);
    for (let flips = random.integer(1, 3); flips > 0 && bytes.length > 0; flips--)
      bytes[random.integer(0, bytes.length - 1)] = random.integer(0, 255);
    try {
      for (const tensor of openSafetensors(write("damaged", bytes)).values()) unpack(tensor);
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
    }
  }
});
