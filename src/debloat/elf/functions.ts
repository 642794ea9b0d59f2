import type { Bytes } from "../bytes.ts";
import { type Elf, fileOffsetOf } from "./elf.ts";

/** Functions of the host code, [address, bytes], ascending. */
export type HostFunctions = [address: number, bytes: number][];

/** Segment type of the table that finds unwind records by binary search. */
const unwindTable = 0x6474e550;

/**
 * The functions that unwind tables know, even where symbols were stripped (LSB, "Exception
 * Frames"). Empty when the file has no such table or one of an encoding that linkers do not write.
 * @throws DebloatError when the tables lie outside the file
 */
export function readFunctions(elf: Elf): HostFunctions {
  const { bytes } = elf;
  const table = elf.segments.find(({ type }) => type === unwindTable);
  if (table === undefined || table.fileBytes < 12) return [];
  const { offset, address, fileBytes } = table;
  // Version 1; a count of 4 bytes; pairs of 4 bytes relative to the table.
  if (bytes.u8(offset) !== 1 || bytes.u8(offset + 2) !== 3 || bytes.u8(offset + 3) !== 0x3b)
    return [];
  const start = offset + 4 + encodedBytes(bytes.u8(offset + 1));
  const count = Math.min(bytes.u32(start), Math.floor((offset + fileBytes - start - 4) / 8));
  const rangeBytes = new Map<number, number>();
  const found: HostFunctions = [];
  for (let index = 0; index < count; index++) {
    const at = start + 4 + 8 * index;
    const record = fileOffsetOf(elf, address + bytes.i32(at + 4), 16);
    if (record === undefined) throw bytes.fail("its unwind table points outside its segments");
    const length = rangeOf(bytes, record, rangeBytes);
    if (length !== undefined && length > 0) found.push([address + bytes.i32(at), length]);
  }
  return found;
}

/** Bytes of a pointer by its encoding; 0 for those without a fixed size. */
function encodedBytes(encoding: number): number {
  return [8, 0, 2, 4, 8, 0, 0, 0, 8, 0, 2, 4, 8, 0, 0, 0][encoding & 15];
}

/** Bytes of the function that the record at `at` describes. */
function rangeOf(bytes: Bytes, at: number, known: Map<number, number>): number | undefined {
  if (bytes.u32(at) === 0xffffffff) return undefined;
  const shared = at + 4 - bytes.u32(at + 4);
  let width = known.get(shared);
  if (width === undefined) {
    width = pointerBytesOf(bytes, shared);
    known.set(shared, width);
  }
  if (width === 4) return bytes.u32(at + 12);
  return width === 8 ? bytes.u64(at + 16) : undefined;
}

/** Bytes of a pointer in the records that share this one; 0 when it says nothing readable. */
function pointerBytesOf(bytes: Bytes, at: number): number {
  let next = at + 9;
  const augmentation = bytes.text(next, 16);
  next += augmentation.length + 1;
  if (!augmentation.startsWith("z")) return augmentation === "" ? 8 : 0;
  const skipNumber = () => {
    while (bytes.u8(next++) & 0x80);
  };
  // Code alignment, data alignment, the return address and the augmentation's length.
  for (let i = 0; i < 4; i++) skipNumber();
  for (const letter of augmentation.slice(1)) {
    if (letter === "R") return encodedBytes(bytes.u8(next));
    if (letter === "L") next += 1;
    else if (letter === "P") next += 1 + encodedBytes(bytes.u8(next));
    else if (letter !== "S" && letter !== "B") return 0;
  }
  return 8;
}
