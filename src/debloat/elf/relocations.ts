/** Pointers into a library that its loader relocates, and addresses that its code computes. */
import type { Bytes } from "../bytes.ts";
import {
  type Elf,
  fileOffsetOf,
  loadedSegments,
  sectionNamed,
  segmentType,
  symbolBytes,
} from "./elf.ts";

/** A pointer into the library itself, kept where its value can be changed. */
export interface Pointer {
  /** Virtual address of the pointer. */
  readonly location: number;
  /** Virtual address that it points at. */
  readonly target: number;
  /** File offset of the 8 bytes that hold the target's address. */
  readonly fileOffset: number;
}

/**
 * Types of relocations by machine: the address of a symbol, the library's address plus an addend,
 * and what the function at that address returns.
 */
const relocationTypes = new Map([
  [62, { symbol: 1, relative: 8, resolver: 37 }],
  [183, { symbol: 257, relative: 1027, resolver: 1032 }],
]);

const tag = {
  rela: 7,
  relaBytes: 8,
  relrBytes: 35,
  relr: 36,
  pltRela: 23,
  pltRelaBytes: 2,
  initArray: 25,
  initArrayBytes: 27,
  finiArray: 26,
  finiArrayBytes: 28,
  textRel: 22,
  flags: 30,
};

/** Entries of the dynamic section by tag; of tags that come twice the last. */
export function readDynamic(elf: Elf): Map<number, number> {
  const found = new Map<number, number>();
  const segment = elf.segments.find(({ type }) => type === segmentType.dynamic);
  if (segment === undefined) return found;
  for (let at = segment.offset; at + 16 <= segment.offset + segment.fileBytes; at += 16) {
    const key = elf.bytes.u32(at);
    if (key === 0 && elf.bytes.u32(at + 4) === 0) break;
    // Values of tags that are not read here may be anything.
    const value = elf.bytes.u32(at + 12) * 2 ** 32 + elf.bytes.u32(at + 8);
    if (elf.bytes.u32(at + 4) === 0) found.set(key, value);
  }
  return found;
}

/** Whether code itself is relocated, so that its pages differ from the file's. */
export function relocatesText(elf: Elf): boolean {
  const dynamic = readDynamic(elf);
  return dynamic.has(tag.textRel) || ((dynamic.get(tag.flags) ?? 0) & 4) !== 0;
}

/** The pointers whose targets lie in [low, high), from DT_RELA and DT_RELR. */
export function pointersInto(elf: Elf, low: number, high: number): Pointer[] {
  const dynamic = readDynamic(elf);
  const found = relaPointers(elf, dynamic, low, high);
  return found.concat(relrPointers(elf, dynamic, low, high));
}

function table(
  elf: Elf,
  dynamic: Map<number, number>,
  addressTag: number,
  bytesTag: number,
): [offset: number, bytes: number] {
  const bytes = dynamic.get(bytesTag) ?? 0;
  const address = dynamic.get(addressTag);
  if (address === undefined || bytes === 0) return [0, 0];
  const offset = fileOffsetOf(elf, address, bytes);
  if (offset === undefined) throw elf.bytes.fail("its relocations lie outside its segments");
  return [offset, bytes];
}

function relaPointers(
  elf: Elf,
  dynamic: Map<number, number>,
  low: number,
  high: number,
): Pointer[] {
  const { bytes } = elf;
  const [offset, length] = table(elf, dynamic, tag.rela, tag.relaBytes);
  const wanted = relocationTypes.get(elf.machine)?.relative;
  const found: Pointer[] = [];
  for (let at = offset; at + 24 <= offset + length; at += 24) {
    if (bytes.u32(at + 8) !== wanted) continue;
    const target = bytes.u32(at + 20) * 2 ** 32 + bytes.u32(at + 16);
    if (target < low || target >= high) continue;
    found.push({ location: bytes.u64(at), target, fileOffset: at + 16 });
  }
  return found;
}

/** DT_RELR's targets are stored at its places. */
function relrPointers(
  elf: Elf,
  dynamic: Map<number, number>,
  low: number,
  high: number,
): Pointer[] {
  const { bytes } = elf;
  return relrPlaces(elf, dynamic).flatMap((location) => {
    const at = fileOffsetOf(elf, location, 8);
    if (at === undefined) throw bytes.fail("a relocation lies outside its segments");
    const target = bytes.u32(at + 4) * 2 ** 32 + bytes.u32(at);
    return target >= low && target < high ? [{ location, target, fileOffset: at }] : [];
  });
}

/** DT_RELR: an address, then bitmaps of 63 words each. */
function relrPlaces(elf: Elf, dynamic: Map<number, number>): number[] {
  const { bytes } = elf;
  const [offset, length] = table(elf, dynamic, tag.relr, tag.relrBytes);
  const found: number[] = [];
  let next = 0;
  for (let at = offset; at + 8 <= offset + length; at += 8) {
    const word = [bytes.u32(at), bytes.u32(at + 4)];
    if ((word[0] & 1) === 0) {
      next = bytes.u64(at);
      found.push(next);
      next += 8;
      continue;
    }
    for (let bit = 1; bit < 64; bit++)
      if ((word[bit >> 5] >>> (bit & 31)) & 1) found.push(next + 8 * (bit - 1));
    next += 8 * 63;
  }
  return found;
}

/** Addresses in [low, high) where the loader writes, of any kind of relocation. */
export function relocatedPlaces(elf: Elf, low: number, high: number): number[] {
  const dynamic = readDynamic(elf);
  const found = relrPlaces(elf, dynamic).filter((place) => place >= low && place < high);
  for (const [start, length] of [
    [tag.rela, tag.relaBytes],
    [tag.pltRela, tag.pltRelaBytes],
  ]) {
    const [offset, bytes] = table(elf, dynamic, start, length);
    for (let at = offset; at + 24 <= offset + bytes; at += 24) {
      const place = elf.bytes.u32(at + 4) * 2 ** 32 + elf.bytes.u32(at);
      if (place >= low && place < high) found.push(place);
    }
  }
  return found;
}

/** Addresses of functions that the loader itself calls: of arrays that it runs, and resolvers. */
export function calledAtLoad(elf: Elf): number[] {
  const { bytes } = elf;
  const dynamic = readDynamic(elf);
  const types = relocationTypes.get(elf.machine);
  const arrays = [
    [tag.initArray, tag.initArrayBytes],
    [tag.finiArray, tag.finiArrayBytes],
  ].map(([start, length]) => [dynamic.get(start) ?? 0, dynamic.get(length) ?? 0] as const);
  const isRun = (location: number) =>
    arrays.some(([start, length]) => location >= start && location < start + length);
  const called = pointersInto(elf, 0, Infinity)
    .filter(({ location }) => isRun(location))
    .map(({ target }) => target);
  const symbols = sectionNamed(elf, ".dynsym");
  for (const [start, length] of [
    [tag.rela, tag.relaBytes],
    [tag.pltRela, tag.pltRelaBytes],
  ]) {
    const [offset, end] = table(elf, dynamic, start, length);
    for (let at = offset; at + 24 <= offset + end; at += 24) {
      const type = bytes.u32(at + 8);
      const addend = bytes.u32(at + 20) * 2 ** 32 + bytes.u32(at + 16);
      if (type === types?.resolver) called.push(addend);
      if (type !== types?.symbol || symbols === undefined || !isRun(bytes.u64(at))) continue;
      called.push(bytes.u64(symbols.offset + bytes.u32(at + 12) * symbolBytes + 8) + addend);
    }
  }
  return called;
}

/**
 * Addresses that code computes relative to itself and that `isWanted` accepts: `lea` of x86-64.
 * Bytes that look like one but are none may be among them.
 */
export function addressesInCode(elf: Elf, isWanted: (address: number) => boolean): Set<number> {
  const found = new Set<number>();
  if (elf.machine !== 62) return found;
  const text = sectionNamed(elf, ".text");
  for (const { flags, offset, address, fileBytes } of loadedSegments(elf)) {
    if ((flags & 1) === 0) continue;
    const start = text === undefined ? offset : Math.max(offset, text.offset);
    const end = Math.min(
      offset + fileBytes,
      text === undefined ? Infinity : text.offset + text.bytes,
    );
    findLea(elf.bytes, start, end, address - offset, (target) => {
      if (isWanted(target)) found.add(target);
    });
  }
  return found;
}

/** `REX.W 8D /r` with a displacement from the next instruction. */
function findLea(
  bytes: Bytes,
  start: number,
  end: number,
  shift: number,
  visit: (target: number) => void,
): void {
  const { data } = bytes;
  for (let at = data.indexOf(0x8d, start + 1); at >= 0 && at + 6 <= end;) {
    if ((data[at + 1] & 0xc7) === 5 && (data[at - 1] & 0xf8) === 0x48)
      visit(at + 6 + bytes.i32(at + 2) + shift);
    at = data.indexOf(0x8d, at + 1);
  }
}
