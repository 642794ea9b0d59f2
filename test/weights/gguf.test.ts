import { describe, expect, test } from "bun:test";
import { type Codes, codesOf, stackCodes } from "../../src/weights/codes.ts";
import { CheckpointError } from "../../src/weights/errors.ts";
import { openGguf } from "../../src/weights/gguf.ts";
import { storedFormat } from "../../src/weights/stored.ts";
import { unpack } from "../../src/weights/unpack.ts";
import { sweep } from "../support/deep.ts";
import { type GgufEntry, ggufBytes, type GgufTensor } from "../support/gguf.ts";
import { seeded } from "../support/random.ts";
import { testFolder } from "./folder.ts";
import golden from "./ggml_golden.json";

const write = testFolder();
const metadata: Record<string, GgufEntry> = {
  "general.architecture": { type: "string", value: "llama" },
  "llama.block_count": { type: "u32", value: 2 },
  "llama.rope.freq_base": { type: "f32", value: 1e5 },
  big: { type: "u64", value: 2 ** 40 },
  flag: { type: "bool", value: 1 },
  texts: { type: "strings", value: ["a", "ß", ""] },
  numbers: { type: "i32s", value: [1, -2, 3] },
};
const floats = new Float32Array([1, 2, 3, 4, 5, 6]);
const tensors: GgufTensor[] = [
  { name: "dense", shape: [2, 3], format: 0, bytes: new Uint8Array(floats.buffer) },
  { name: "blocks", shape: [1, 64], format: 3, bytes: new Uint8Array(40).fill(7) },
];

test("metadata and tensors come as they were written", () => {
  const file = openGguf(write("whole.gguf", ggufBytes(metadata, tensors)));
  expect(Object.fromEntries(file.metadata)).toEqual({
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.rope.freq_base": 1e5,
    big: 2 ** 40,
    flag: true,
    texts: ["a", "ß", ""],
    numbers: [1, -2, 3],
  });
  const dense = file.tensors.get("dense")!;
  expect(dense.shape).toEqual([2, 3]);
  expect(unpack(dense)).toEqual(floats);
  const blocks = file.tensors.get("blocks")!;
  expect(blocks.format).toEqual({ name: "Q4_1", blockElements: 32, blockBytes: 20 });
  expect(blocks.bytes).toEqual(tensors[1].bytes);
});

describe("blocks are those of ggml's reference", () => {
  test.each(Object.entries(golden))("%s", (name, { blocks, values }) => {
    const bytes = new Uint8Array(Buffer.from(blocks, "base64"));
    const expected = new Float32Array(new Uint8Array(Buffer.from(values, "base64")).buffer);
    const format = storedFormat(name as keyof typeof golden);
    const got = unpack({ name, shape: [expected.length], format, bytes });
    expect(got.length).toBe(expected.length);
    for (let i = 0; i < got.length; i++) {
      // f32 there, rounded once here.
      const limit = 4e-7 * Math.max(1, Math.abs(expected[i]));
      expect(Math.abs(got[i] - expected[i])).toBeLessThanOrEqual(limit);
    }
  });
});

describe("blocks become codes with scales, which say the same", () => {
  const storedOf = (name: keyof typeof golden, rows: number) => {
    const { blocks } = golden[name];
    const bytes = new Uint8Array(Buffer.from(blocks, "base64"));
    const format = storedFormat(name);
    const columns = ((bytes.length / format.blockBytes) * format.blockElements) / rows;
    return { name, shape: [rows, columns], format, bytes };
  };
  /** Numbers of codes by their definition; their scales are f16. */
  const numbersOf = ({ bits, group, values, scales, minimums }: Codes) =>
    Float64Array.from({ length: (values.length * 8) / bits }, (_, i) => {
      const byte = values[bits === 8 ? i : (i >> 5) * 16 + (i & 15)];
      const code = bits === 8 ? (byte << 24) >> 24 : (byte >> (i & 16 ? 4 : 0)) & 15;
      const g = Math.floor(i / group);
      if (minimums !== undefined) return code * scales[g] + minimums[g];
      return (bits === 4 ? code - 8 : code) * scales[g];
    });
  const expectClose = (got: ArrayLike<number>, expected: ArrayLike<number>) => {
    expect(got.length).toBe(expected.length);
    for (let i = 0; i < got.length; i++) {
      // Scale and minimum are each rounded to 11 bits, of numbers up to 64 times the value.
      const limit = 2 ** -10 * Math.max(0.01, Math.abs(expected[i])) * 4;
      expect(Math.abs(got[i] - expected[i])).toBeLessThanOrEqual(limit);
    }
  };
  const names = Object.keys(golden) as (keyof typeof golden)[];

  test.each(names)("%s", (name) => {
    const stored = storedOf(name, 3);
    expectClose(numbersOf(codesOf(stored)!), unpack(stored));
  });

  test("those of different kinds stand below each other", () => {
    for (const one of names)
      for (const other of names) {
        const parts = [storedOf(one, 3), storedOf(other, 3)];
        const stacked = stackCodes(parts.map((part) => codesOf(part)!));
        expectClose(
          numbersOf(stacked),
          parts.flatMap((part) => [...unpack(part)]),
        );
      }
  });

  test("dense formats have none", () => {
    const format = storedFormat("F16");
    expect(codesOf({ name: "x", shape: [1], format, bytes: new Uint8Array(2) })).toBeUndefined();
  });
});

describe("refused, by name", () => {
  const wrong: [what: string, bytes: Uint8Array, said: RegExp][] = [
    ["another format", new Uint8Array(100).fill(65), /it is no GGUF file/],
    ["version 1", ggufBytes({}, [], { version: 1 }), /version is 1, of which 2 and 3 are read/],
    ["nothing", new Uint8Array(0), /it is empty/],
    ["a cut file", ggufBytes(metadata, tensors).slice(0, -1), /tensor blocks ends at byte/],
    [
      "an unknown format",
      ggufBytes({}, [{ ...tensors[0], format: 99 }]),
      /ggml format 99, and F32/,
    ],
    ["rows of part blocks", ggufBytes({}, [{ ...tensors[1], shape: [2, 20] }]), /not blocks of 32/],
    ["a tensor twice", ggufBytes({}, [tensors[0], tensors[0]]), /tensor dense stands twice/],
    [
      "more than it holds",
      ggufBytes({}, [{ ...tensors[0], shape: [2 ** 40, 2 ** 20] }]),
      /beyond the file's end/,
    ],
    [
      "an odd alignment",
      ggufBytes({ "general.alignment": { type: "u32", value: 12 } }, []),
      /general\.alignment is 12/,
    ],
  ];
  test.each(wrong)("%s", (_, bytes, said) => {
    expect(() => openGguf(write("wrong.gguf", bytes))).toThrow(said);
  });

  test("a file that is missing, a folder", () => {
    expect(() => openGguf("/absent/model.gguf")).toThrow(/cannot be read \(ENOENT\)/);
    expect(() => openGguf("/")).toThrow(/not a file/);
  });
});

sweep("damaged files open or are refused", { slice: 300, whole: 20_000 }, async (seed, cases) => {
  const random = seeded(seed);
  const whole = ggufBytes(metadata, tensors);
  for (let i = 0; i < cases; i++) {
    const bytes = whole.slice(0, random.chance(0.3) ? random.integer(0, whole.length) : undefined);
    for (let flips = random.integer(1, 4); flips > 0 && bytes.length > 0; flips--)
      bytes[random.integer(0, bytes.length - 1)] = random.pick([0, 1, 255, random.integer(0, 255)]);
    const path = write("damaged.gguf", bytes);
    try {
      for (const tensor of openGguf(path).tensors.values()) unpack(tensor);
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
    }
  }
});
