/** Takes kernels out of a cubin: what is left is what the compiler would have made without them. */
import { Patch } from "../bytes.ts";
import {
  elfHeaderBytes,
  type Section,
  sectionBytes,
  sectionFlag,
  sectionHeaderBytes,
  sectionType,
  segmentHeaderBytes,
  symbolBytes,
} from "../elf/elf.ts";
import { type Cubin, isDebug, isRelocation, neededSections } from "./cubin.ts";

const infoType = 0x70000000;
const mercInfoType = 0x70000083;
const callGraphType = 0x70000001;
/** Records of .nv.info that begin with a symbol: registers, frame and stack sizes. */
const attributesOfSymbols = new Set([0x2f, 0x11, 0x12, 0x23]);
const absolute = 0xfff1;

/**
 * The cubin without kernels that are neither kept nor needed by kept ones; undefined when nothing
 * would go. Code, constants and tables of kept kernels stay as they are, byte for byte; tables for
 * debuggers go, as they describe all kernels at once. Symbols keep their places.
 * @returns the cubin and the kernels that went
 */
export function dropKernels(
  cubin: Cubin,
  isKept: (kernel: string) => boolean,
): { image: Uint8Array; dropped: string[] } | undefined {
  if (cubin.whole !== undefined) return undefined;
  const needed = neededSections(cubin, isKept);
  const dropped = cubin.kernels.filter(({ section }) => !needed.has(section));
  if (dropped.length === 0) return undefined;
  const { elf } = cubin;
  const kept = elf.sections.filter(({ index, name }) => needed.has(index) && !isDebug(name));
  const contents = new Map(kept.map((section) => [section.index, contentOf(cubin, section, kept)]));
  const layout = layOut(kept, contents);
  // Alignments that no compiler asks for: there is nothing to gain.
  if (!(layout.end < elf.bytes.length)) return undefined;
  return {
    image: write(cubin, kept, contents, layout),
    dropped: dropped.map(({ name }) => name),
  };
}

/** What a kept section holds afterwards. */
function contentOf(cubin: Cubin, section: Section, kept: readonly Section[]): Uint8Array {
  const { elf, symbols } = cubin;
  const content = sectionBytes(elf, section);
  const isAlive = aliveIn(kept);
  if (symbols.has(section.index)) return withoutSymbols(cubin, section, kept);
  if (section.type === sectionType.strtab) return withoutNames(cubin, section, kept);
  const table = symbols.get(section.link);
  if (table === undefined) return content;
  const isDead = (symbol: number) => {
    const at = table[symbol]?.section ?? 0;
    return at !== 0 && at < 0xff00 && !isAlive(at);
  };
  const isShared = cubin.owners[section.index] === section.index;
  if (isShared && (section.type === infoType || section.type === mercInfoType))
    return withoutRecords(content, isDead);
  if (section.type === callGraphType) return withoutCalls(content, isDead);
  return content;
}

function aliveIn(kept: readonly Section[]): (index: number) => boolean {
  const indices = new Set(kept.map(({ index }) => index));
  return (index) => indices.has(index);
}

/** A symbol of a section that goes stays as an absolute one without a name. */
function withoutSymbols(cubin: Cubin, table: Section, kept: readonly Section[]): Uint8Array {
  const content = new Patch(cubin.elf.bytes.slice(table.offset, table.bytes));
  const renumbered = new Map(kept.map(({ index }, place) => [index, place]));
  cubin.symbols.get(table.index)!.forEach(({ section }, index) => {
    if (section === 0 || section >= 0xff00) return;
    const at = index * symbolBytes;
    const place = renumbered.get(section);
    if (place !== undefined) return void content.u16(at + 6, place);
    content.bytes.fill(0, at, at + symbolBytes);
    content.u16(at + 6, absolute);
  });
  return content.bytes;
}

/**
 * Names that nothing has any more become zeros, which pack to nothing; others keep their places.
 */
function withoutNames(cubin: Cubin, strings: Section, kept: readonly Section[]): Uint8Array {
  const { elf } = cubin;
  const original = elf.bytes.slice(strings.offset, strings.bytes);
  const content = new Uint8Array(original.length);
  const keep = (offset: number) => {
    if (offset >= original.length) return;
    const end = original.indexOf(0, offset);
    content.set(original.subarray(offset, end < 0 ? original.length : end), offset);
  };
  const isAlive = aliveIn(kept);
  for (const table of kept) {
    if (table.link !== strings.index || !cubin.symbols.has(table.index)) continue;
    cubin.symbols.get(table.index)!.forEach(({ section }, index) => {
      if (section === 0 || section >= 0xff00 || isAlive(section))
        keep(elf.bytes.u32(table.offset + index * symbolBytes));
    });
  }
  const headers = elf.sectionsOffset;
  for (const { index } of kept)
    keepIfNamedHere(elf.bytes.u32(headers + index * sectionHeaderBytes));
  return content;

  function keepIfNamedHere(offset: number): void {
    if (elf.bytes.u16(62) === strings.index) keep(offset);
  }
}

/** .nv.info: u8 format, u8 attribute, u16 value; format 4 is followed by that many bytes. */
function withoutRecords(content: Uint8Array, isDead: (symbol: number) => boolean): Uint8Array {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const kept: Uint8Array[] = [];
  for (let at = 0; at + 4 <= content.length;) {
    const isSized = content[at] === 4;
    const end = at + 4 + (isSized ? view.getUint16(at + 2, true) : 0);
    const namesSymbol =
      isSized && attributesOfSymbols.has(content[at + 1]) && at + 8 <= content.length;
    if (!namesSymbol || !isDead(view.getUint32(at + 4, true))) kept.push(content.subarray(at, end));
    at = end;
  }
  return Buffer.concat(kept);
}

/** .nv.callgraph: pairs of symbols; numbers that are no symbol's mark things of their own. */
function withoutCalls(content: Uint8Array, isDead: (symbol: number) => boolean): Uint8Array {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const kept: Uint8Array[] = [];
  for (let at = 0; at + 8 <= content.length; at += 8)
    if (!isDead(view.getUint32(at, true)) && !isDead(view.getUint32(at + 4, true)))
      kept.push(content.subarray(at, at + 8));
  return Buffer.concat(kept);
}

interface Layout {
  /** New file offset by section. */
  readonly offsets: ReadonlyMap<number, number>;
  /** Where the section headers begin. */
  readonly end: number;
}

/** Sections in their old order, closed up; those that shared bytes of the file share them again. */
function layOut(kept: readonly Section[], contents: ReadonlyMap<number, Uint8Array>): Layout {
  const offsets = new Map<number, number>();
  const ordered = kept.slice(1).sort((a, b) => a.offset - b.offset || b.fileBytes - a.fileBytes);
  let end = elfHeaderBytes;
  let shared: Section | undefined;
  for (const section of ordered) {
    const length = contents.get(section.index)!.length;
    if (shared !== undefined && length > 0 && section.offset < shared.offset + shared.fileBytes) {
      const at = offsets.get(shared.index)! + section.offset - shared.offset;
      offsets.set(section.index, at);
      end = Math.max(end, at + length);
      if (section.offset + section.fileBytes > shared.offset + shared.fileBytes) shared = section;
      continue;
    }
    const align = Math.max(1, section.align);
    const at = align * Math.ceil(end / align);
    offsets.set(section.index, at);
    end = at + length;
    if (length > 0) shared = section;
  }
  return { offsets, end: 8 * Math.ceil(end / 8) };
}

function write(
  cubin: Cubin,
  kept: readonly Section[],
  contents: ReadonlyMap<number, Uint8Array>,
  { offsets, end }: Layout,
): Uint8Array {
  const { bytes, segments, sectionsOffset } = cubin.elf;
  const segmentsAt = end + kept.length * sectionHeaderBytes;
  const file = new Patch(new Uint8Array(segmentsAt + segments.length * segmentHeaderBytes));
  const renumbered = new Map(kept.map(({ index }, place) => [index, place]));
  file.bytes.set(bytes.slice(0, elfHeaderBytes));
  file.u64(32, segments.length === 0 ? 0 : segmentsAt).u64(40, end);
  file.u16(60, kept.length).u16(62, renumbered.get(bytes.u16(62)) ?? 0);
  kept.forEach((section, place) => {
    const header = end + place * sectionHeaderBytes;
    const old = sectionsOffset + section.index * sectionHeaderBytes;
    file.bytes.set(bytes.slice(old, sectionHeaderBytes), header);
    if (section.type === sectionType.null) return;
    const content = contents.get(section.index)!;
    file.u64(header + 24, offsets.get(section.index)!);
    file.u32(header + 40, renumbered.get(section.link) ?? 0);
    if (isRelocation(section.type) || section.flags & sectionFlag.infoLink)
      file.u32(header + 44, renumbered.get(section.info) ?? 0);
    if (section.fileBytes === 0) return;
    file.u64(header + 32, content.length);
    file.bytes.set(content, offsets.get(section.index)!);
  });
  segments.forEach((_, index) => {
    const old = cubin.elf.segmentsOffset + index * segmentHeaderBytes;
    file.bytes.set(bytes.slice(old, segmentHeaderBytes), segmentsAt + index * segmentHeaderBytes);
  });
  placeSegments(cubin, kept, offsets, contents, file, segmentsAt);
  return file.bytes;
}

/** Segments cover the same sections as before, as far as those are left. */
function placeSegments(
  cubin: Cubin,
  kept: readonly Section[],
  offsets: ReadonlyMap<number, number>,
  contents: ReadonlyMap<number, Uint8Array>,
  file: Patch,
  segmentsAt: number,
): void {
  const { segments, segmentsOffset } = cubin.elf;
  segments.forEach((segment, index) => {
    const header = segmentsAt + index * segmentHeaderBytes;
    if (segment.offset === segmentsOffset) return void file.u64(header + 8, segmentsAt);
    const held = kept.filter(
      ({ flags, offset, fileBytes: held }) =>
        (flags & sectionFlag.alloc) !== 0 &&
        held > 0 &&
        offset >= segment.offset &&
        offset + held <= segment.offset + segment.fileBytes,
    );
    const starts = held.map((section) => offsets.get(section.index)!);
    const ends = held.map((section, at) => starts[at] + contents.get(section.index)!.length);
    const start = held.length === 0 ? 0 : Math.min(...starts);
    const fileBytes = held.length === 0 ? 0 : Math.max(...ends) - start;
    file.u64(header + 8, start).u64(header + 32, fileBytes);
    file.u64(header + 40, fileBytes + Math.max(0, segment.memoryBytes - segment.fileBytes));
  });
}
