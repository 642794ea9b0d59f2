import { elementsOf } from "../tensor/shape.ts";
import type { MappedFile } from "./mapped-file.ts";

/** How elements of a stored tensor lie: blocks of some elements along a row, of some bytes each. */
export interface StoredFormat {
  /** The field's name, as in `Q4_K` or `BF16`. */
  readonly name: StoredFormatName;
  readonly blockElements: number;
  readonly blockBytes: number;
}

const blocks = {
  F64: [1, 8],
  F32: [1, 4],
  F16: [1, 2],
  BF16: [1, 2],
  F8_E4M3: [1, 1],
  F8_E5M2: [1, 1],
  I64: [1, 8],
  I32: [1, 4],
  I16: [1, 2],
  I8: [1, 1],
  U8: [1, 1],
  BOOL: [1, 1],
  Q4_0: [32, 18],
  Q4_1: [32, 20],
  Q8_0: [32, 34],
  Q4_K: [256, 144],
  Q6_K: [256, 210],
} as const;

/** Formats that checkpoints may hold. */
export type StoredFormatName = keyof typeof blocks;

/** The format of that name. */
export function storedFormat(name: StoredFormatName): StoredFormat {
  const [blockElements, blockBytes] = blocks[name];
  return { name, blockElements, blockBytes };
}

/** A tensor as it lies in a file that is mapped into memory. */
export interface StoredTensor {
  readonly name: string;
  /** Outermost first, as PyTorch has it; blocks lie along the last. */
  readonly shape: readonly number[];
  readonly format: StoredFormat;
  /** In row-major order; mapped anew each time, and read when first touched. */
  readonly bytes: Uint8Array;
  /** Reads the bytes from one on into memory; absent where they do not lie so in a file. */
  readonly read?: (into: Uint8Array, from: number) => void;
}

/** How many bytes a tensor has. */
export function storedBytes({ shape, format }: Pick<StoredTensor, "shape" | "format">): number {
  return (elementsOf(shape) / format.blockElements) * format.blockBytes;
}

/** A tensor of `byteLength` bytes from byte `from` of a file on. */
export function storedIn(
  file: MappedFile,
  described: Omit<StoredTensor, "bytes" | "read">,
  from: number,
  byteLength: number,
): StoredTensor {
  return {
    ...described,
    get bytes() {
      return file.range(from, from + byteLength);
    },
    read: (into, at) => file.readInto(into, from + at),
  };
}
