/**
 * Takes runs of pages out of a library's file while everything keeps its virtual address: a segment
 * with a hole becomes two (the layout that shrinkelf describes). What is written is the original
 * without its removed runs, with some bytes replaced.
 */
import { Patch } from "../bytes.ts";
import {
  type Elf,
  elfHeaderBytes,
  sectionFlag,
  sectionHeaderBytes,
  type Segment,
  segmentHeaderBytes,
  segmentType,
} from "./elf.ts";
import { joinRanges, type Ranges, subtractRanges } from "./ranges.ts";
import type { Cut } from "./cut.ts";
import { sectionTable } from "./section-table.ts";

/** Bytes that replace those of the original: new ones, or a run from elsewhere in the original. */
export interface Replacement {
  /** Offset in the original's file. */
  readonly at: number;
  readonly bytes: number;
  readonly source: Uint8Array | number;
}

/** Where the original's bytes go. */
export interface CutResult {
  /** Runs of the original that the file lacks, [file offset, bytes]. */
  readonly removed: Ranges;
  /** New tables and headers. */
  readonly replacements: readonly Replacement[];
  /** What follows the last byte of the original. */
  readonly appended: Uint8Array;
}

const segmentsMax = 60_000;
/** Flags of a segment that is only read. */
const readable = 4;

/**
 * Plans the new file.
 * @throws DebloatError when a hole would take bytes that something else needs
 */
export function cutFile(elf: Elf, cut: Cut): CutResult {
  requireOwnHoles(elf, cut);
  const holes = elf.segments.length + cut.holes.length < segmentsMax ? cut.holes : [];
  const removed = joinRanges([...holes, ...strippedRuns(elf, cut)]);
  const moved = mover(removed);
  const segments = elf.segments.flatMap((segment) => split(segment, holes, cut));
  const sections = sectionTable(elf, cut, holes, moved);
  const isLonger = segments.length > elf.segments.length;
  const end = moved(elf.bytes.length);
  const room = isLonger ? roomAtEnd(segments, end, cut.pageBytes) : undefined;
  const table = segmentTable(elf, segments, moved, cut.pageBytes, room);
  const tail: { at: number; bytes: Uint8Array }[] = [];
  if (room !== undefined) tail.push({ at: room.offset, bytes: table });
  const tailEnd = room === undefined ? end : room.offset + table.length;
  const hasParts = sections.length > elf.sections.length * sectionHeaderBytes;
  const sectionsAt = hasParts ? 8 * Math.ceil(tailEnd / 8) : moved(elf.sectionsOffset);
  if (hasParts) tail.push({ at: sectionsAt, bytes: sections });
  const replacements: Replacement[] = [];
  const replace = (at: number, source: Uint8Array) =>
    void replacements.push({ at, bytes: source.length, source });
  if (room === undefined) replace(elf.segmentsOffset, table);
  if (!hasParts) replace(elf.sectionsOffset, sections);
  const header = new Patch(elf.bytes.slice(0, elfHeaderBytes));
  header.u64(32, room?.offset ?? moved(elf.segmentsOffset)).u64(40, sectionsAt);
  header.u16(56, table.length / segmentHeaderBytes).u16(60, sections.length / sectionHeaderBytes);
  replace(0, header.bytes);
  const appended = new Uint8Array(
    Math.max(0, ...tail.map(({ at, bytes }) => at + bytes.length - end)),
  );
  for (const { at, bytes } of tail) appended.set(bytes, at - end);
  return { removed, replacements: replacements.sort((a, b) => a.at - b.at), appended };
}

/** Where a table goes that has grown, in the new file and in memory. */
interface Room {
  readonly offset: number;
  readonly address: number;
}

/**
 * Room behind all that is there, in a page of its own: pages of a hole are no place for it, as code
 * that is called after all must fault there. No section stands for it, so GNU strip and objcopy put
 * it right behind the last loaded byte of the file, at the address that it had: it is as far into
 * its page as that byte, for both to agree, even where that is no multiple of 8.
 */
function roomAtEnd(segments: readonly Segment[], end: number, pageBytes: number): Room {
  const pageUp = (value: number) => pageBytes * Math.ceil(value / pageBytes);
  const loaded = segments.filter(({ type }) => type === segmentType.load);
  const last = loaded.reduce((a, b) => (b.address > a.address ? b : a));
  const intoPage = (last.address + last.fileBytes) % pageBytes;
  const address = pageUp(last.address + last.memoryBytes) + intoPage;
  const offset = pageUp(end - intoPage) + intoPage;
  return { offset, address };
}

/** New file offsets of old ones; an offset inside a removed run becomes that of its end. */
function mover(removed: Ranges): (offset: number) => number {
  const before: number[] = [];
  let sum = 0;
  for (const [, bytes] of removed) {
    before.push(sum);
    sum += bytes;
  }
  return (offset) => {
    let low = 0;
    let high = removed.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (removed[middle][0] <= offset) low = middle + 1;
      else high = middle;
    }
    if (low === 0) return offset;
    const [start, bytes] = removed[low - 1];
    return offset - before[low - 1] - Math.min(bytes, offset - start);
  };
}

function requireOwnHoles(elf: Elf, { holes, holed, pageBytes }: Cut): void {
  const overlaps = (offset: number, bytes: number) =>
    holes.some(([start, length]) => offset < start + length && start < offset + bytes);
  const inside = elf.segments.filter(({ type }) => type === segmentType.load);
  for (const [start, length] of holes) {
    const home = inside.find(
      ({ offset, fileBytes }) => start >= offset && start + length <= offset + fileBytes,
    );
    if (home === undefined || start % pageBytes !== 0 || (home.address - home.offset) % pageBytes)
      throw elf.bytes.fail("a part to remove lies in no segment of whole pages");
  }
  for (const { index, name, offset, fileBytes: bytes, flags } of elf.sections) {
    if (bytes > 0 && flags & sectionFlag.alloc && !holed.has(index) && overlaps(offset, bytes))
      throw elf.bytes.fail(`section ${name} overlaps another that is to shrink`);
  }
  const tables: [number, number][] = [
    [0, elfHeaderBytes],
    [elf.sectionsOffset, elf.sections.length * sectionHeaderBytes],
    [elf.segmentsOffset, elf.segments.length * segmentHeaderBytes],
    ...elf.segments
      .filter(({ type }) => type !== segmentType.load)
      .map(({ offset, fileBytes }): [number, number] => [offset, fileBytes]),
  ];
  if (tables.some(([offset, bytes]) => bytes > 0 && overlaps(offset, bytes)))
    throw elf.bytes.fail("its tables lie where code does");
}

/** Runs of stripped sections that nothing else holds; later segments stay on their pages. */
function strippedRuns(elf: Elf, { stripped, pageBytes }: Cut): Ranges {
  if (stripped.length === 0) return [];
  const gone = new Set(stripped.map(({ index }) => index));
  const kept = joinRanges([
    [0, elfHeaderBytes],
    [elf.sectionsOffset, elf.sections.length * sectionHeaderBytes],
    [elf.segmentsOffset, elf.segments.length * segmentHeaderBytes],
    ...elf.segments.map(({ offset, fileBytes }): [number, number] => [offset, fileBytes]),
    ...elf.sections
      .filter(({ index }) => !gone.has(index))
      .map(({ offset, fileBytes }): [number, number] => [offset, fileBytes]),
  ]);
  const free = subtractRanges(joinRanges(stripped.map((s) => [s.offset, s.fileBytes])), kept);
  const lastLoaded = Math.max(
    ...elf.segments.map(({ type, offset, fileBytes }) =>
      type === segmentType.load ? offset + fileBytes : 0,
    ),
  );
  return free
    .map(([start, bytes]): [number, number] => {
      const unit = start < lastLoaded ? pageBytes : 16;
      return [start, unit * Math.floor(bytes / unit)];
    })
    .filter(([, bytes]) => bytes > 0);
}

/**
 * A segment without its holes; what memory lies past the file's bytes stays with the last part. A
 * last part that nobody needs goes: tools do not know what to do with it.
 */
function split(segment: Segment, holes: Ranges, { free, zeros }: Cut): Segment[] {
  const { type, offset, fileBytes, memoryBytes, address } = segment;
  if (type !== segmentType.load || fileBytes === 0) return [segment];
  const parts = subtractRanges([[offset, fileBytes]], holes);
  // Zeros from the start on need a part that they follow.
  if (isInside([offset, parts[0]?.[0] ?? offset + fileBytes], zeros)) parts.unshift([offset, 0]);
  const isLastNeeded = subtractRanges(parts.slice(-1), free).length > 0;
  if (parts.length > 1 && memoryBytes === fileBytes && !isLastNeeded) parts.pop();
  if (parts.length === 0) return [{ ...segment, fileBytes: 0, memoryBytes: 0 }];
  return parts.map(([start, bytes], at) => {
    const next = at === parts.length - 1 ? offset + memoryBytes : parts[at + 1][0];
    const hasZeros = at === parts.length - 1 || isInside([start + bytes, next], zeros);
    return {
      ...segment,
      offset: start,
      address: address + (start - offset),
      fileBytes: bytes,
      memoryBytes: hasZeros ? next - start : bytes,
    };
  });
}

/** Whether [start, end), which is not empty, lies in one of the runs. */
function isInside([start, end]: [number, number], runs: Ranges): boolean {
  return start < end && runs.some(([at, bytes]) => start >= at && end <= at + bytes);
}

/** The table in place, or in `room` with a segment more that maps it. */
function segmentTable(
  elf: Elf,
  segments: readonly Segment[],
  moved: (offset: number) => number,
  pageBytes: number,
  room: Room | undefined,
): Uint8Array {
  const count = segments.length + (room === undefined ? 0 : 1);
  const table = new Patch(new Uint8Array(count * segmentHeaderBytes));
  const tableBytes = table.bytes.length;
  const place = (at: number, offset: number, address: number) =>
    table
      .u64(at + 8, offset)
      .u64(at + 16, address)
      .u64(at + 24, address);
  segments.forEach((segment, index) => {
    const at = index * segmentHeaderBytes;
    const old = elf.segmentsOffset + segment.index * segmentHeaderBytes;
    table.bytes.set(elf.bytes.slice(old, segmentHeaderBytes), at);
    if (segment.type === segmentType.table && room !== undefined) {
      place(at, room.offset, room.address)
        .u64(at + 32, tableBytes)
        .u64(at + 40, tableBytes);
      return;
    }
    const { address, align } = segment;
    const offset = moved(segment.offset);
    place(at, offset, address)
      .u64(at + 32, segment.fileBytes)
      .u64(at + 40, segment.memoryBytes);
    const isAligned = align < 2 || (address - offset) % align === 0;
    if (segment.type === segmentType.load && !isAligned) table.u64(at + 48, pageBytes);
  });
  if (room === undefined) return table.bytes;
  const at = segments.length * segmentHeaderBytes;
  table.u32(at, segmentType.load).u32(at + 4, readable);
  place(at, room.offset, room.address)
    .u64(at + 32, tableBytes)
    .u64(at + 40, tableBytes);
  return table.u64(at + 48, pageBytes).bytes;
}
