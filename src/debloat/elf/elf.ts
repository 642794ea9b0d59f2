/** 64-bit little-endian ELF files, read only: the System V ABI's tables, every length checked. */
import { type Bytes, latin1 } from "../bytes.ts";

/** A section header. */
export interface Section {
  readonly index: number;
  readonly name: string;
  readonly type: number;
  readonly flags: number;
  readonly address: number;
  readonly offset: number;
  readonly bytes: number;
  /** Of `bytes`, those that are in the file: none for memory that begins as zeros. */
  readonly fileBytes: number;
  readonly link: number;
  readonly info: number;
  readonly align: number;
}

/** A program header. */
export interface Segment {
  readonly index: number;
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly address: number;
  readonly fileBytes: number;
  readonly memoryBytes: number;
  readonly align: number;
}

/** A symbol of a table. */
export interface ElfSymbol {
  readonly name: string;
  /** Low four bits the type, high four bits the binding. */
  readonly info: number;
  readonly other: number;
  readonly section: number;
  readonly value: number;
  readonly bytes: number;
}

/** The headers of a file. */
export interface Elf {
  readonly bytes: Bytes;
  readonly type: number;
  readonly machine: number;
  readonly sectionsOffset: number;
  readonly segmentsOffset: number;
  readonly sections: readonly Section[];
  readonly segments: readonly Segment[];
}

/** Sizes of the fixed records. */
export const elfHeaderBytes = 64;
/** Bytes of a section header. */
export const sectionHeaderBytes = 64;
/** Bytes of a program header. */
export const segmentHeaderBytes = 56;
/** Bytes of a symbol. */
export const symbolBytes = 24;

/** Types of a section. */
export const sectionType = { null: 0, symtab: 2, strtab: 3, rela: 4, nobits: 8, rel: 9 } as const;
/** Types of cubins for memory that begins as zeros: global, local, shared and reserved shared. */
const cudaNobits = [0x70000007, 0x70000009, 0x7000000a, 0x70000015];
/** The machine of cubins. */
export const machineCuda = 190;
/** Flags of a section. */
export const sectionFlag = { alloc: 2, exec: 4, infoLink: 0x40, threadLocal: 0x400 } as const;
/** Types of a segment. */
export const segmentType = { load: 1, dynamic: 2, interpreter: 3, table: 6 } as const;

/**
 * Reads the headers of a file.
 * @throws DebloatError when it is not a 64-bit little-endian ELF file, or a table lies outside it
 */
export function readElf(bytes: Bytes): Elf {
  requireKind(bytes);
  const sectionsOffset = bytes.u64(40);
  const segmentsOffset = bytes.u64(32);
  const sectionCount = bytes.u16(60);
  const segmentCount = bytes.u16(56);
  if (sectionCount > 0 && bytes.u16(58) !== sectionHeaderBytes)
    throw bytes.fail(`its section headers have ${bytes.u16(58)} bytes, not ${sectionHeaderBytes}`);
  if (segmentCount > 0 && bytes.u16(54) !== segmentHeaderBytes)
    throw bytes.fail(`its program headers have ${bytes.u16(54)} bytes, not ${segmentHeaderBytes}`);
  return {
    bytes,
    type: bytes.u16(16),
    machine: bytes.u16(18),
    sectionsOffset,
    segmentsOffset,
    sections: readSections(bytes, sectionsOffset, sectionCount, bytes.u16(62)),
    segments: Array.from({ length: segmentCount }, (_, index) =>
      readSegment(bytes, segmentsOffset + index * segmentHeaderBytes, index),
    ),
  };
}

function requireKind(bytes: Bytes): void {
  const fix = "give a shared library (.so) of 64-bit Linux.";
  if (bytes.length < elfHeaderBytes || latin1(bytes.slice(0, 4)) !== "\x7fELF")
    throw bytes.fail("it is not an ELF file", fix);
  if (bytes.u8(4) !== 2) throw bytes.fail("it is a 32-bit ELF file", fix);
  if (bytes.u8(5) !== 1) throw bytes.fail("it is a big-endian ELF file", fix);
}

function hasFileBytes(type: number, machine: number): boolean {
  if (type === sectionType.null || type === sectionType.nobits) return false;
  return machine !== machineCuda || !cudaNobits.includes(type);
}

function readSections(bytes: Bytes, at: number, count: number, namesIndex: number): Section[] {
  const machine = bytes.u16(18);
  const nameOf: number[] = [];
  const sections = Array.from({ length: count }, (_, index) => {
    const header = at + index * sectionHeaderBytes;
    nameOf.push(bytes.u32(header));
    // The first section is a null entry, whatever it contains.
    const type = index === 0 ? sectionType.null : bytes.u32(header + 4);
    const length = bytes.u64(header + 32);
    const section = {
      index,
      name: "",
      type,
      // The upper half holds no flag that is known here.
      flags: index === 0 ? 0 : bytes.u32(header + 8),
      address: bytes.u64(header + 16),
      offset: bytes.u64(header + 24),
      bytes: length,
      fileBytes: hasFileBytes(type, machine) ? length : 0,
      link: bytes.u32(header + 40),
      info: bytes.u32(header + 44),
      align: bytes.u64(header + 48),
    };
    bytes.slice(section.fileBytes === 0 ? 0 : section.offset, section.fileBytes);
    return section;
  });
  if (namesIndex === 0) return sections;
  const names = sections[namesIndex];
  if (names === undefined)
    throw bytes.fail(`section ${namesIndex} holds no names: it is not there`);
  return sections.map((section, index) =>
    section.type === sectionType.null
      ? section
      : { ...section, name: bytes.text(names.offset + nameOf[index]) },
  );
}

function readSegment(bytes: Bytes, at: number, index: number): Segment {
  const segment = {
    index,
    type: bytes.u32(at),
    flags: bytes.u32(at + 4),
    offset: bytes.u64(at + 8),
    address: bytes.u64(at + 16),
    fileBytes: bytes.u64(at + 32),
    memoryBytes: bytes.u64(at + 40),
    align: bytes.u64(at + 48),
  };
  bytes.slice(segment.offset, segment.fileBytes);
  return segment;
}

/** The first section of a name. */
export function sectionNamed(elf: Elf, name: string): Section | undefined {
  return elf.sections.find((section) => section.name === name);
}

/** The bytes of a section; none for one that takes no room in the file. */
export function sectionBytes(elf: Elf, section: Section): Uint8Array {
  return section.fileBytes === 0
    ? new Uint8Array()
    : elf.bytes.slice(section.offset, section.fileBytes);
}

/** Segments that the loader maps, in the order of the file. */
export function loadedSegments(elf: Elf): Segment[] {
  return elf.segments.filter(({ type }) => type === segmentType.load);
}

/** Where in the file a virtual address lies, with `count` bytes after it in the same segment. */
export function fileOffsetOf(elf: Elf, address: number, count = 1): number | undefined {
  for (const segment of elf.segments) {
    const { type, offset, address: start, fileBytes } = segment;
    if (type !== segmentType.load || address < start || address + count > start + fileBytes)
      continue;
    return offset + (address - start);
  }
  return undefined;
}

/**
 * The symbols of a table, in order.
 * @throws DebloatError when names together are far longer than the file: it was made to take memory
 */
export function readSymbols(elf: Elf, table: Section): ElfSymbol[] {
  const { bytes } = elf;
  const names = elf.sections[table.link];
  if (names === undefined) throw bytes.fail(`section ${table.name} has no names`);
  let nameBytes = 0;
  const nameBytesMax = 8 * bytes.length + 65_536;
  return Array.from({ length: Math.floor(table.bytes / symbolBytes) }, (_, index) => {
    const at = table.offset + index * symbolBytes;
    const name = bytes.text(names.offset + bytes.u32(at));
    nameBytes += name.length;
    if (nameBytes > nameBytesMax) throw bytes.fail(`the names of ${table.name} overlap too often`);
    return {
      name,
      info: bytes.u8(at + 4),
      other: bytes.u8(at + 5),
      section: bytes.u16(at + 6),
      value: readValue(bytes, at + 8),
      bytes: readValue(bytes, at + 16),
    };
  });
}

/** A symbol's value may be any number: absolute symbols hold what they like. */
function readValue(bytes: Bytes, at: number): number {
  return bytes.u32(at + 4) * 2 ** 32 + bytes.u32(at);
}

/** The build id in hex, from the note that linkers write; undefined without one. */
export function buildIdOf(elf: Elf): string | undefined {
  const { bytes } = elf;
  for (const { type, offset, fileBytes } of elf.segments) {
    if (type !== 4) continue;
    const end = offset + fileBytes;
    for (let at = offset; at + 12 <= end;) {
      const nameBytes = bytes.u32(at);
      const valueBytes = bytes.u32(at + 4);
      const value = at + 12 + 4 * Math.ceil(nameBytes / 4);
      const isBuildId = bytes.u32(at + 8) === 3 && nameBytes === 4 && valueBytes > 0;
      if (isBuildId && latin1(bytes.slice(at + 12, 4)) === "GNU\0")
        return Buffer.from(bytes.slice(value, valueBytes)).toString("hex");
      at = value + 4 * Math.ceil(valueBytes / 4);
    }
  }
  return undefined;
}
