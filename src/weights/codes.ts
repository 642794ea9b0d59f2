import type { StoredFormatName, StoredTensor } from "./stored.ts";
import { q4KScales, q6KCode } from "./unpack.ts";

/**
 * A matrix of whole numbers in groups along its rows, as `Weight.grouped` takes it: code times
 * scale plus minimum. Four bits: of each 32 codes, byte j has code j low and code 16 + j high, and
 * 8 is subtracted where there are no minimums. Eight bits: signed.
 */
export interface Codes {
  readonly bits: 4 | 8;
  /** Codes of a group. */
  readonly group: number;
  readonly values: Uint8Array;
  /** By group. */
  readonly scales: Float16Array;
  readonly minimums: Float16Array | undefined;
}

type Take = (view: DataView, blocks: number) => Codes;

/**
 * The codes of a stored matrix in ggml's blocks; undefined for other formats. Scales of Q4_K and
 * Q6_K are products there and are rounded to f16 here.
 */
export function codesOf({ format, bytes }: StoredTensor): Codes | undefined {
  const take = takers[format.name];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return take?.(view, bytes.length / format.blockBytes);
}

/** Codes that begin alike stand one below the other. */
export function stackCodes(parts: readonly Codes[]): Codes {
  const bits = parts.some((part) => part.bits === 8) ? 8 : 4;
  const group = Math.min(...parts.map((part) => part.group));
  const withMinimums = parts.some(({ minimums }) => minimums !== undefined);
  const alike = parts.map((part) => asCodes(part, bits, group, withMinimums));
  return {
    bits,
    group,
    values: Buffer.concat(alike.map(({ values }) => values)),
    scales: joined(alike.map(({ scales }) => scales)),
    minimums: withMinimums ? joined(alike.map(({ minimums }) => minimums!)) : undefined,
  };
}

/** The same numbers in wider codes, in smaller groups, and with minimums that were not there. */
function asCodes(codes: Codes, bits: 4 | 8, group: number, withMinimums: boolean): Codes {
  const times = codes.group / group;
  const repeated = (values: Float16Array) =>
    Float16Array.from({ length: values.length * times }, (_, i) => values[Math.floor(i / times)]);
  const scales = repeated(codes.scales);
  const isSame = bits === codes.bits;
  const values = isSame ? codes.values : widened(codes);
  if (!withMinimums) return { bits, group, values, scales, minimums: undefined };
  // Four bits without minimums count from -8; widened they have lost it already.
  const offset = isSame && bits === 4 ? -8 : 0;
  const minimums =
    codes.minimums === undefined ? scales.map((scale) => offset * scale) : repeated(codes.minimums);
  return { bits, group, values, scales, minimums };
}

/** Four-bit codes as eight-bit ones. */
function widened({ values, minimums }: Codes): Uint8Array {
  const out = new Int8Array(2 * values.length);
  const offset = minimums === undefined ? 8 : 0;
  for (let i = 0; i < values.length; i++) {
    const at = (i >> 4) * 32 + (i & 15);
    out[at] = (values[i] & 15) - offset;
    out[at + 16] = (values[i] >> 4) - offset;
  }
  return new Uint8Array(out.buffer);
}

function joined(parts: readonly Float16Array[]): Float16Array {
  const out = new Float16Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

const takers: Partial<Record<StoredFormatName, Take>> = {
  Q4_0: (view, blocks) => nibbles(view, blocks, false),
  Q4_1: (view, blocks) => nibbles(view, blocks, true),
  Q8_0: (view, blocks) => {
    const values = new Uint8Array(blocks * 32);
    const words = new Uint32Array(values.buffer);
    const scales = new Float16Array(blocks);
    for (let block = 0; block < blocks; block++) {
      scales[block] = view.getFloat16(block * 34, true);
      copyWords(view, block * 34 + 2, words, block * 8, 8);
    }
    return { bits: 8, group: 32, values, scales, minimums: undefined };
  },
  Q4_K: (view, blocks) => {
    const values = new Uint8Array(blocks * 128);
    const scales = new Float16Array(blocks * 8);
    const minimums = new Float16Array(blocks * 8);
    for (let i = 0; i < blocks * 8; i++) {
      const at = (i >> 3) * 144;
      [scales[i], minimums[i]] = q4KScales(view, at, i & 7);
      // Two groups share 32 bytes: the even one has the low halves.
      const from = at + 16 + ((i & 7) >> 1) * 32;
      const shift = (i & 1) * 4;
      for (let j = 0; j < 16; j++) {
        const low = (view.getUint8(from + j) >> shift) & 15;
        const high = (view.getUint8(from + 16 + j) >> shift) & 15;
        values[i * 16 + j] = low | (high << 4);
      }
    }
    return { bits: 4, group: 32, values, scales, minimums };
  },
  Q6_K: (view, blocks) => {
    const values = new Int8Array(blocks * 256);
    const scales = new Float16Array(blocks * 16);
    for (let block = 0; block < blocks; block++) {
      const at = block * 210;
      const scale = view.getFloat16(at + 208, true);
      for (let i = 0; i < 16; i++) scales[block * 16 + i] = scale * view.getInt8(at + 192 + i);
      for (let i = 0; i < 256; i++) values[block * 256 + i] = q6KCode(view, at, i);
    }
    return {
      bits: 8,
      group: 16,
      values: new Uint8Array(values.buffer),
      scales,
      minimums: undefined,
    };
  },
};

/** Q4_0 and Q4_1, whose 16 bytes of codes lie as they should. */
function nibbles(view: DataView, blocks: number, withMinimums: boolean): Codes {
  const head = withMinimums ? 4 : 2;
  const values = new Uint8Array(blocks * 16);
  const words = new Uint32Array(values.buffer);
  const scales = new Float16Array(blocks);
  const minimums = withMinimums ? new Float16Array(blocks) : undefined;
  for (let block = 0; block < blocks; block++) {
    const at = block * (head + 16);
    scales[block] = view.getFloat16(at, true);
    if (minimums !== undefined) minimums[block] = view.getFloat16(at + 2, true);
    copyWords(view, at + head, words, block * 4, 4);
  }
  return { bits: 4, group: 32, values, scales, minimums };
}

/** Four bytes at a time: a view for each block would cost more than its bytes. */
function copyWords(view: DataView, at: number, out: Uint32Array, to: number, count: number): void {
  for (let i = 0; i < count; i++) out[to + i] = view.getUint32(at + 4 * i, true);
}
