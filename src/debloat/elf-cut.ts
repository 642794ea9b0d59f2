/**
 * Takes runs of pages out of a library's file while everything keeps its virtual address: a segment
 * with a hole becomes two (the layout that shrinkelf describes). What is written is the original
 * without its removed runs, with some bytes replaced.
 */
import { Patch } from "./bytes.ts";
import {
  type Elf,
  elfHeaderBytes,
  type Section,
  sectionFlag,
  sectionHeaderBytes,
  sectionType,
  type Segment,
  segmentHeaderBytes,
  segmentType,
} from "./elf.ts";
import { joinRanges, type Ranges, subtractRanges } from "./ranges.ts";

/** Bytes that replace those of the original: new ones, or a run from elsewhere in the original. */
export interface Replacement {
  /** Offset in the original's file. */
  readonly at: number;
  readonly bytes: number;
  readonly source: Uint8Array | number;
}

/** What to take out of a file. */
export interface Cut {
  /** Runs of whole pages inside loaded segments, [file offset, bytes]. */
  readonly holes: Ranges;
  /** Sections that may have holes: what else lies in one is an error. */
  readonly holed: ReadonlySet<number>;
  /** New sizes by section. */
  readonly sizes: ReadonlyMap<number, number>;
  /** Sections that are not loaded and go. */
  readonly stripped: readonly Section[];
  readonly pageBytes: number;
}

/** Where the original's bytes go. */
export interface CutResult {
  /** Runs of the original that the file lacks, [file offset, bytes]. */
  readonly removed: Ranges;
  /** New tables and headers. */
  readonly replacements: readonly Replacement[];
}

const segmentsMax = 60_000;

/**
 * Plans the new file.
 * @throws DebloatError when a hole would take bytes that something else needs
 */
export function cutFile(elf: Elf, cut: Cut): CutResult {
  requireOwnHoles(elf, cut);
  const { holes, table } = roomForTable(elf, cut);
  const removed = joinRanges([...holes, ...strippedRuns(elf, cut)]);
  const moved = mover(removed);
  const segments = elf.segments.flatMap((segment) => split(segment, holes));
  const replacements: Replacement[] = [];
  const replace = (at: number, source: Uint8Array) =>
    void replacements.push({ at, bytes: source.length, source });
  const tableAt = table ?? elf.segmentsOffset;
  replace(tableAt, segmentTable(elf, segments, moved, tableAt, cut.pageBytes));
  replace(elf.sectionsOffset, sectionTable(elf, cut, holes, moved));
  const header = new Patch(elf.bytes.slice(0, elfHeaderBytes));
  header.u64(32, moved(tableAt)).u64(40, moved(elf.sectionsOffset)).u16(56, segments.length);
  replace(0, header.bytes);
  return { removed, replacements: replacements.sort((a, b) => a.at - b.at) };
}

/** New file offsets of old ones; an offset inside a removed run becomes that of its end. */
export function mover(removed: Ranges): (offset: number) => number {
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
      if (removed[middle]![0] <= offset) low = middle + 1;
      else high = middle;
    }
    if (low === 0) return offset;
    const [start, bytes] = removed[low - 1]!;
    return offset - before[low - 1]! - Math.min(bytes, offset - start);
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

/**
 * A table with more segments needs room in a page that is mapped: the first pages of the largest
 * hole stay for it.
 */
function roomForTable(elf: Elf, { holes, pageBytes }: Cut): { holes: Ranges; table?: number } {
  if (holes.length === 0) return { holes };
  const segments = elf.segments.length + holes.length;
  const room = pageBytes * Math.ceil((segments * segmentHeaderBytes) / pageBytes);
  const home = holes.reduce((a, b) => (b[1] > a[1] ? b : a));
  // A hole that the table would fill is not worth being one.
  if (home[1] <= room || segments > segmentsMax) return { holes: [] };
  const shorter = holes.map((hole): [number, number] =>
    hole === home ? [hole[0] + room, hole[1] - room] : hole,
  );
  return { holes: shorter, table: home[0] };
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

/** A segment without its holes; what memory lies past the file's bytes stays with the last part. */
function split(segment: Segment, holes: Ranges): Segment[] {
  const { type, offset, fileBytes, memoryBytes, address } = segment;
  if (type !== segmentType.load || fileBytes === 0) return [segment];
  const parts = subtractRanges([[offset, fileBytes]], holes);
  if (parts.length === 0) return [{ ...segment, fileBytes: 0, memoryBytes: 0 }];
  return parts.map(([start, bytes], at) => ({
    ...segment,
    offset: start,
    address: address + (start - offset),
    fileBytes: bytes,
    memoryBytes: at === parts.length - 1 ? bytes + (memoryBytes - fileBytes) : bytes,
  }));
}

function segmentTable(
  elf: Elf,
  segments: readonly Segment[],
  moved: (offset: number) => number,
  tableAt: number,
  pageBytes: number,
): Uint8Array {
  const table = new Patch(new Uint8Array(segments.length * segmentHeaderBytes));
  const home = segments.find(
    ({ type, offset, fileBytes }) =>
      type === segmentType.load && tableAt >= offset && tableAt < offset + fileBytes,
  );
  segments.forEach((segment, index) => {
    const at = index * segmentHeaderBytes;
    const old = elf.segmentsOffset + segment.index * segmentHeaderBytes;
    table.bytes.set(elf.bytes.slice(old, segmentHeaderBytes), at);
    const isTable = segment.type === segmentType.table;
    const start = isTable ? tableAt : segment.offset;
    const address =
      isTable && home !== undefined ? home.address + (tableAt - home.offset) : segment.address;
    const bytes = isTable ? table.bytes.length : segment.fileBytes;
    table
      .u64(at + 8, moved(start))
      .u64(at + 16, address)
      .u64(at + 24, address);
    table.u64(at + 32, bytes).u64(at + 40, isTable ? bytes : segment.memoryBytes);
    const isAligned = segment.align < 2 || (address - moved(start)) % segment.align === 0;
    if (segment.type === segmentType.load && !isAligned) table.u64(at + 48, pageBytes);
  });
  return table.bytes;
}

function sectionTable(
  elf: Elf,
  { sizes, stripped }: Cut,
  holes: Ranges,
  moved: (offset: number) => number,
): Uint8Array {
  const length = elf.sections.length * sectionHeaderBytes;
  const table = new Patch(elf.bytes.slice(elf.sectionsOffset, length));
  const gone = new Set(stripped.map(({ index }) => index));
  for (const { index, offset, fileBytes: bytes, type } of elf.sections) {
    const at = index * sectionHeaderBytes;
    if (index === 0 || type === sectionType.null) continue;
    // Others refer to sections by number: one that goes leaves an empty place.
    if (gone.has(index)) {
      table.bytes.fill(0, at, at + sectionHeaderBytes);
      continue;
    }
    table.u64(at + 24, moved(offset));
    if (bytes === 0) continue;
    const hole = holes.find(([start]) => start >= offset && start < offset + bytes);
    const contiguous = hole === undefined ? bytes : hole[0] - offset;
    table.u64(at + 32, Math.min(sizes.get(index) ?? bytes, contiguous));
  }
  return table.bytes;
}
