/** Whether a program finds in memory what the original puts there. */
import {
  type Elf,
  elfHeaderBytes,
  fileOffsetOf,
  loadedSegments,
  type Section,
  sectionBytes,
  sectionFlag,
  sectionHeaderBytes,
  sectionNamed,
  type Segment,
  segmentHeaderBytes,
  segmentType,
} from "../elf/elf.ts";
import { countOf, joinRanges, type Ranges, subtractRanges } from "../elf/ranges.ts";
import { pointersInto } from "../elf/relocations.ts";
import type { Library } from "../library.ts";
import { strippable } from "../shrink/rewrite.ts";

/** What of a library's memory is as it was. */
export interface MemoryComparison {
  /** Bytes that are mapped from the file and were compared. */
  readonly sameBytes: number;
  /** Runs of .text that are not mapped any more, [address, bytes]. */
  readonly missingText: Ranges;
  /** Runs of device code outside fat binaries that come from the file no more, likewise. */
  readonly missingLoose: Ranges;
  readonly problems: readonly string[];
}

/**
 * Compares what the loader maps, byte by byte. Fat binaries, pointers to them, the file's header
 * and its tables may differ; parts of device code and of .text may be missing; no more.
 */
export function compareMemory(original: Library, shrunk: Library): MemoryComparison {
  const [before, after] = [original.elf, shrunk.elf];
  const problems = [
    ...headerProblems(before, after),
    ...segmentProblems(original, after),
    ...sectionProblems(before, after),
  ];
  const fatbins = original.fatbins.map(({ section }) => rangeOf(section));
  const text = sectionNamed(before, ".text");
  const [was, is] = [mappedRanges(before), mappedRanges(after)];
  const missing = subtractRanges(was, is);
  const elsewhere = subtractRanges(missing, joinRanges(fatbins));
  const missingText = subtractRanges(elsewhere, looseRanges(original));
  const missingLoose = subtractRanges(elsewhere, missingText);
  const lost = subtractRanges(missingText, text === undefined ? [] : [rangeOf(text)]);
  if (lost.length > 0) problems.push(`${countOf(lost)} bytes at ${hex(lost[0][0])} are not mapped`);
  const mayDiffer = joinRanges([
    ...fatbins,
    ...missing,
    ...tablesOf(before),
    ...tablesOf(after),
    ...pointerWords(original),
  ]);
  const compared = subtractRanges(was, mayDiffer);
  for (const [address, bytes] of compared) {
    const at = firstDifference(before, after, address, bytes);
    if (at !== undefined) problems.push(`the byte at address ${hex(at)} has changed`);
  }
  return { sameBytes: countOf(compared), missingText, missingLoose, problems };
}

/** Zeros between images are nobody's, where the program may have zeros there. */
const zerosBytesMax = 4096;

/** Device code outside fat binaries, with the padding between images, [address, bytes]. */
function looseRanges({ loose }: Library): Ranges {
  return joinRanges(
    loose.flatMap(({ section, data, containers }) =>
      containers.map(({ offset, bytes }, at): [number, number] => {
        const next = containers[at + 1]?.offset ?? offset + bytes;
        const between = data.subarray(offset + bytes, next);
        const isPadding = between.length < zerosBytesMax && !between.some(Boolean);
        return [section.address + offset, isPadding ? next - offset : bytes];
      }),
    ),
  );
}

function hex(address: number): string {
  return `0x${address.toString(16)}`;
}

function rangeOf({ address, bytes }: Section): [number, number] {
  return [address, bytes];
}

function mappedRanges(elf: Elf): Ranges {
  return joinRanges(
    loadedSegments(elf).map(({ address, fileBytes }): [number, number] => [address, fileBytes]),
  );
}

/**
 * Addresses of the file's header and of its tables, where they are mapped: patchelf leaves the
 * table of sections inside a segment, though nothing that runs reads it.
 */
function tablesOf(elf: Elf): Ranges {
  const tables: [number, number][] = [
    [0, elfHeaderBytes],
    [elf.segmentsOffset, elf.segments.length * segmentHeaderBytes],
    [elf.sectionsOffset, elf.sections.length * sectionHeaderBytes],
  ];
  return tables.flatMap(([offset, bytes]) => {
    const address = addressOf(elf, offset);
    return address === undefined ? [] : [[address, bytes] as [number, number]];
  });
}

function addressOf(elf: Elf, fileOffset: number): number | undefined {
  const home = loadedSegments(elf).find(
    ({ offset, fileBytes }) => fileOffset >= offset && fileOffset < offset + fileBytes,
  );
  return home === undefined ? undefined : home.address + (fileOffset - home.offset);
}

/** Where the addresses of containers are stored. */
function pointerWords({ elf, fatbins }: Library): Ranges {
  return fatbins.flatMap(({ section: { address, bytes } }) =>
    pointersInto(elf, address, address + bytes).map(({ fileOffset }): [number, number] => [
      addressOf(elf, fileOffset)!,
      8,
    ]),
  );
}

const pieceBytes = 2 ** 20;

function firstDifference(before: Elf, after: Elf, address: number, bytes: number) {
  for (let done = 0; done < bytes; done += pieceBytes) {
    const count = Math.min(pieceBytes, bytes - done);
    const [was, is] = [before, after].map((elf) => mappedBytes(elf, address + done, count));
    if (Buffer.compare(was, is) === 0) continue;
    return address + done + was.findIndex((byte, at) => byte !== is[at]);
  }
  return undefined;
}

/** What the loader puts at an address; a piece may reach over segments that adjoin. */
function mappedBytes(elf: Elf, address: number, count: number): Uint8Array {
  const whole = fileOffsetOf(elf, address, count);
  if (whole !== undefined) return elf.bytes.slice(whole, count);
  const parts: Uint8Array[] = [];
  for (let at = address; at < address + count;) {
    const home = loadedSegments(elf).find(
      ({ address: start, fileBytes }) => at >= start && at < start + fileBytes,
    )!;
    const bytes = Math.min(address + count, home.address + home.fileBytes) - at;
    parts.push(elf.bytes.slice(home.offset + (at - home.address), bytes));
    at += bytes;
  }
  return Buffer.concat(parts);
}

function headerProblems(before: Elf, after: Elf): string[] {
  // Identification, type, machine, version, entry point, flags.
  const fields = [0, 4, 8, 12, 16, 20, 24, 28, 48];
  const same = fields.every((at) => before.bytes.u32(at) === after.bytes.u32(at));
  return same ? [] : ["its header says another machine, type or entry point"];
}

/**
 * Segments must be parts of the original's, on whole pages, in order; tables must be where they
 * were.
 */
function segmentProblems(original: Library, after: Elf): string[] {
  const { elf: before, pageBytes } = original;
  const mayBeZeros = looseRanges(original);
  const problems: string[] = [];
  const loaded = loadedSegments(before);
  const memory = (segments: readonly Segment[]) =>
    segments.map(({ address, memoryBytes }): [number, number] => [address, memoryBytes]);
  const endOf = (segments: readonly Segment[]) =>
    Math.max(...memory(segments).map(([address, bytes]) => address + bytes));
  const parts = loadedSegments(after).filter(
    (segment) => !(segment.address >= endOf(loaded) && isTableAlone(after, segment)),
  );
  let end = 0;
  let fileEnd = 0;
  for (const { address, offset, flags, fileBytes, memoryBytes, align } of parts) {
    const home = loaded.find((s) => address >= s.address && address < s.address + s.memoryBytes);
    const place = `the segment at ${hex(address)}`;
    if (home === undefined || flags !== home.flags) problems.push(`${place} has other rights`);
    const isWhole = (at: number, edge?: number) => at % pageBytes === 0 || at === edge;
    if (!isWhole(address, home?.address) || !isWhole(address + fileBytes, fileEndOf(home)))
      problems.push(`${place} is cut within a page`);
    // Zeros over what was left out would hide that it is missing.
    const zeros: Ranges = [[address + fileBytes, memoryBytes - fileBytes]];
    const isLoose = isWritable(home) && subtractRanges(zeros, mayBeZeros).length === 0;
    if (memoryBytes !== fileBytes && address + memoryBytes !== memoryEndOf(home) && !isLoose)
      problems.push(`${place} has other memory`);
    if (fileBytes > 0 && offset < fileEnd) problems.push(`${place} holds bytes of another`);
    fileEnd = Math.max(fileEnd, offset + fileBytes);
    if ((address - offset) % Math.max(pageBytes, align) !== 0)
      problems.push(`${place} is not on a page of the file`);
    if (address < end) problems.push(`${place} overlaps the one before`);
    end = address + memoryBytes;
  }
  if (subtractRanges(joinRanges(memory(parts)), joinRanges(memory(loaded))).length > 0)
    problems.push("it takes memory that the original does not");
  if (endOf(loaded) !== end) problems.push("its memory ends elsewhere");
  const isTableMapped = (elf: Elf) => addressOf(elf, elf.segmentsOffset) !== undefined;
  if (isTableMapped(before) && !isTableMapped(after))
    problems.push("the table of its segments is not mapped");
  const others = (elf: Elf) => elf.segments.filter(({ type }) => !unordered.has(type));
  const [was, is] = [others(before), others(after)];
  if (was.length !== is.length) problems.push("it has other tables");
  else problems.push(...was.flatMap((segment, at) => tableProblem(after, segment, is[at])));
  return problems;
}

function isWritable(segment: Segment | undefined): boolean {
  const write = 2;
  return segment !== undefined && (segment.flags & write) !== 0;
}

function fileEndOf(segment: Segment | undefined): number | undefined {
  return segment === undefined ? undefined : segment.address + segment.fileBytes;
}

function memoryEndOf(segment: Segment | undefined): number | undefined {
  return segment === undefined ? undefined : segment.address + segment.memoryBytes;
}

/** A segment after all others for the table of segments, which only the loader reads. */
function isTableAlone(elf: Elf, { flags, offset, fileBytes, memoryBytes }: Segment): boolean {
  const readable = 4;
  const tableBytes = elf.segments.length * segmentHeaderBytes;
  return (
    flags === readable &&
    offset === elf.segmentsOffset &&
    [fileBytes, memoryBytes].every((bytes) => bytes === tableBytes)
  );
}

/** Compared elsewhere, or, as the table of segments, allowed to move. */
const unordered = new Set<number>([segmentType.load, segmentType.table]);

function tableProblem(after: Elf, was: Segment, is: Segment): string[] {
  const keys = ["type", "flags", "address", "fileBytes", "memoryBytes", "align"] as const;
  const isSame = keys.every((key) => was[key] === is[key]);
  const isPlaced =
    is.fileBytes === 0 ||
    !loadedSegments(after).some(({ address, fileBytes }) => {
      return is.address >= address && is.address < address + fileBytes;
    }) ||
    fileOffsetOf(after, is.address, is.fileBytes) === is.offset;
  return isSame && isPlaced
    ? []
    : [`the table at ${hex(was.address)} (type ${was.type}) has changed`];
}

/**
 * Sections that are not loaded stay or, if they are for debuggers and linkers, go; behind all there
 * may be later parts of loaded ones.
 */
function sectionProblems(before: Elf, after: Elf): string[] {
  const isPart = ({ name, flags, address, bytes }: Section) =>
    before.sections.some(
      (was) =>
        was.name === name &&
        was.flags === flags &&
        (flags & sectionFlag.alloc) !== 0 &&
        address > was.address &&
        address + bytes <= was.address + was.bytes,
    );
  const more = after.sections.slice(before.sections.length);
  if (before.sections.length > after.sections.length || !more.every(isPart))
    return ["it has other sections"];
  const mayGo = new Set(strippable(before));
  return before.sections.flatMap((was, index) => {
    const is = after.sections[index];
    if (mayGo.has(was) && is.type === 0) return [];
    if (was.type !== is.type || was.address !== is.address)
      return [`section ${was.name} has another type or address`];
    if (was.flags & sectionFlag.alloc) return [];
    const isSame = Buffer.compare(sectionBytes(before, was), sectionBytes(after, is)) === 0;
    return isSame ? [] : [`section ${was.name} has other bytes`];
  });
}
