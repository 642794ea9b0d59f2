import { decode, type DType } from "../tensor/dtype.ts";
import type { StoredFormatName, StoredTensor } from "./stored.ts";

/** Writes a block's elements; `view` holds the tensor, whose block begins at byte `at`. */
type Unpack = (view: DataView, at: number, out: Float32Array, to: number) => void;

/** Dense formats by the dtype that has the same bits. */
export const dtypeOf: Readonly<Partial<Record<StoredFormatName, DType>>> = {
  F32: "f32",
  F16: "f16",
  BF16: "bf16",
  F8_E4M3: "f8e4m3",
  F8_E5M2: "f8e5m2",
  I64: "i64",
  I32: "i32",
  I8: "i8",
  U8: "u8",
  BOOL: "bool",
};

/**
 * All elements of a stored tensor in f32, in row-major order. Blocks of ggml are taken apart as its
 * `dequantize_row_*` define them (ggml-quants.c); wider integers round.
 */
export function unpack({ format, bytes }: StoredTensor): Float32Array<ArrayBuffer> {
  const dtype = dtypeOf[format.name];
  if (dtype !== undefined) return Float32Array.from(decode(dtype, bytes.slice()));
  const blocks = bytes.length / format.blockBytes;
  const out = new Float32Array(blocks * format.blockElements);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const take = unpackers[format.name as keyof typeof unpackers];
  for (let i = 0; i < blocks; i++) take(view, i * format.blockBytes, out, i * format.blockElements);
  return out;
}

const unpackers = {
  F64: (view, at, out, to) => {
    out[to] = view.getFloat64(at, true);
  },
  I16: (view, at, out, to) => {
    out[to] = view.getInt16(at, true);
  },
  Q4_0: (view, at, out, to) => {
    const scale = view.getFloat16(at, true);
    unpackNibbles(view, at + 2, scale, -8 * scale, out, to);
  },
  Q4_1: (view, at, out, to) =>
    unpackNibbles(view, at + 4, view.getFloat16(at, true), view.getFloat16(at + 2, true), out, to),
  Q8_0: (view, at, out, to) => {
    const scale = view.getFloat16(at, true);
    for (let i = 0; i < 32; i++) out[to + i] = scale * view.getInt8(at + 2 + i);
  },
  Q4_K: unpackQ4K,
  Q6_K: unpackQ6K,
} satisfies Partial<Record<StoredFormatName, Unpack>>;

/** 32 elements from 16 bytes: the low nibbles, then the high ones. */
function unpackNibbles(
  view: DataView,
  at: number,
  scale: number,
  minimum: number,
  out: Float32Array,
  to: number,
): void {
  for (let i = 0; i < 16; i++) {
    const byte = view.getUint8(at + i);
    out[to + i] = scale * (byte & 15) + minimum;
    out[to + 16 + i] = scale * (byte >> 4) + minimum;
  }
}

/** Eight groups of 32 codes. */
function unpackQ4K(view: DataView, at: number, out: Float32Array, to: number): void {
  for (let group = 0; group < 8; group++) {
    const [scale, minimum] = q4KScales(view, at, group);
    // Two groups share 32 bytes: the even one has the low nibbles.
    const from = at + 16 + (group >> 1) * 32;
    const shift = (group & 1) * 4;
    for (let i = 0; i < 32; i++) {
      const q = (view.getUint8(from + i) >> shift) & 15;
      out[to + group * 32 + i] = scale * q + minimum;
    }
  }
}

/**
 * Scale and minimum of a group of the Q4_K block at `at`: six bits of each, times a f16 scale and a
 * f16 minimum of the block.
 */
export function q4KScales(view: DataView, at: number, group: number): [number, number] {
  return [
    view.getFloat16(at, true) * sixBits(view, at + 4, group, 0),
    -view.getFloat16(at + 2, true) * sixBits(view, at + 4, group, 4),
  ];
}

/**
 * A group's scale (`first` 0) or minimum (4): groups 0 to 3 have six bits in one byte, the others
 * four in the last four bytes and two above those six.
 */
function sixBits(view: DataView, at: number, group: number, first: 0 | 4): number {
  if (group < 4) return view.getUint8(at + first + group) & 63;
  const low = (view.getUint8(at + 4 + group) >> first) & 15;
  return low | ((view.getUint8(at + first + group - 4) >> 6) << 4);
}

/** 16 groups of 16: an i8 scale each, and one f16 scale of all. */
function unpackQ6K(view: DataView, at: number, out: Float32Array, to: number): void {
  const scale = view.getFloat16(at + 208, true);
  for (let i = 0; i < 256; i++)
    out[to + i] = scale * view.getInt8(at + 192 + (i >> 4)) * q6KCode(view, at, i);
}

/** Code i of the Q6_K block at `at`, -32 to 31: four low bits, two high bits. */
export function q6KCode(view: DataView, at: number, i: number): number {
  const half = i >> 7;
  const quarter = (i >> 5) & 3;
  const lane = i & 31;
  const low = view.getUint8(at + half * 64 + (quarter & 1) * 32 + lane);
  const high = view.getUint8(at + 128 + half * 32 + lane);
  return (((low >> ((quarter >> 1) * 4)) & 15) | (((high >> (quarter * 2)) & 3) << 4)) - 32;
}
