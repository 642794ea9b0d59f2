/**
 * A shared library as debloat sees it: its ELF tables, its fat binaries, and what points at them.
 */
import { DebloatError } from "../errors.ts";
import { Bytes, latin1 } from "./bytes.ts";
import {
  buildIdOf,
  type Elf,
  loadedSegments,
  readElf,
  readSymbols,
  type Section,
  sectionBytes,
  sectionNamed,
  segmentType,
} from "./elf/elf.ts";
import { addressesInCode, type Pointer, pointersInto } from "./elf/relocations.ts";
import { type Fatbins, readFatbins } from "./fatbin/fatbin.ts";
import { mapFile } from "./files.ts";
import { containerAt, type DeviceSection, type LooseSection, readLoose } from "./loose.ts";

/** A section of fat binaries. */
export interface FatbinSection extends Fatbins, DeviceSection {
  /** Pointers that move with a container, by its offset in the section. */
  readonly pointers: ReadonlyMap<number, readonly Pointer[]>;
}

/** A library as read. */
export interface Library {
  readonly file: string;
  readonly elf: Elf;
  readonly buildId: string | undefined;
  /** Bytes that the file's pages must be cut by: 4096, or 65536 where pages can be that large. */
  readonly pageBytes: number;
  readonly fatbins: readonly FatbinSection[];
  /** Sections with device code outside fat binaries. */
  readonly loose: readonly LooseSection[];
}

/** Containers that the driver loads, and those that it links first (`nvcc -rdc=true`). */
export const fatbinSections = { loaded: ".nv_fatbin", relocatable: "__nv_relfatbin" } as const;

/** What the last 64 bytes of a shrunk library begin with; the original's SHA-256 follows. */
export const shrunkMark = "flashbun debloat";
/** Bytes after the end of a shrunk library's tables. */
export const shrunkMarkBytes = 64;

const pageBytesOf = new Map([
  [62, 4096],
  [183, 65_536],
]);
const sharedObject = 3;

/**
 * Reads a library: pure, of bytes that may be mapped.
 * @throws DebloatError when it is no shared library that debloat can shrink, or was shrunk already
 */
export function readLibrary(data: Uint8Array, file: string): Library {
  const bytes = new Bytes(data, file);
  const elf = readElf(bytes);
  const pageBytes = pageBytesOf.get(elf.machine);
  if (pageBytes === undefined)
    throw bytes.fail(`it is for machine ${elf.machine}`, "give a library of x86-64 or aarch64.");
  if (elf.type !== sharedObject || !elf.segments.some(({ type }) => type === segmentType.dynamic))
    throw bytes.fail(
      "it is not a shared library but a static program or an object file",
      "give a .so, or build with -shared.",
    );
  if (isShrunk(data))
    throw new DebloatError(
      file,
      "it was shrunk already",
      "give the original; `flashbun debloat restore` brings it back.",
    );
  requireSegments(elf);
  const fatbins = Object.values(fatbinSections).flatMap((name) => {
    const section = sectionNamed(elf, name);
    return section === undefined ? [] : [readFatbinSection(elf, section)];
  });
  const known = fatbins.map(({ section }) => section);
  return { file, elf, buildId: buildIdOf(elf), pageBytes, fatbins, loose: readLoose(elf, known) };
}

/** Whether debloat wrote these bytes. */
export function isShrunk(data: Uint8Array): boolean {
  const mark = data.subarray(Math.max(0, data.length - shrunkMarkBytes));
  return latin1(mark.subarray(0, shrunkMark.length)) === shrunkMark;
}

/** The size that a shrunk library had, and its bytes without the mark; undefined for others. */
export function shrunkFrom(data: Uint8Array): { bytes: number; data: Uint8Array } | undefined {
  if (!isShrunk(data)) return undefined;
  const end = data.length - shrunkMarkBytes;
  const bytes = new Bytes(data, "").u64(end + shrunkMark.length);
  return { bytes, data: data.subarray(0, end) };
}

/** Loaders demand that segments ascend and that their pages agree with the file's. */
function requireSegments(elf: Elf): void {
  let end = 0;
  for (const { address, offset, fileBytes, memoryBytes, align } of loadedSegments(elf)) {
    const misaligned = align > 1 && (address - offset) % Math.min(align, 4096) !== 0;
    if (address < end || memoryBytes < fileBytes || misaligned)
      throw elf.bytes.fail("its segments overlap or are out of order");
    end = address + memoryBytes;
  }
}

function readFatbinSection(elf: Elf, section: Section): FatbinSection {
  const data = sectionBytes(elf, section);
  const fatbins = readFatbins(data, elf.bytes.file);
  const low = section.address;
  const high = low + section.bytes;
  const isMapped = loadedSegments(elf).some(
    ({ offset, address, fileBytes }) =>
      section.offset >= offset &&
      section.offset + section.bytes <= offset + fileBytes &&
      address - offset === low - section.offset,
  );
  if (!isMapped) throw elf.bytes.fail(`its section ${section.name} is not where it is mapped`);
  const pointers = new Map<number, Pointer[]>();
  for (const pointer of pointersInto(elf, low, high)) {
    const at = pointer.target - low;
    const known = pointers.get(at);
    if (known === undefined) pointers.set(at, [pointer]);
    else known.push(pointer);
  }
  const pins = new Map<number, string>();
  const pin = (at: number, reason: string) => {
    const container = containerAt(fatbins.containers, at);
    if (container !== undefined && !pins.has(container.offset)) pins.set(container.offset, reason);
  };
  for (const at of pointers.keys())
    if (containerAt(fatbins.containers, at)?.offset !== at) pin(at, "something points into it");
  for (const at of addressesInCode(elf, (address) => address >= low && address < high))
    if (pointers.has(at - low)) pin(at - low, "code computes its address");
  for (const { value } of dynamicSymbols(elf))
    if (value >= low && value < high) pin(value - low, "a symbol that others see names it");
  for (const { offset } of fatbins.containers)
    if (!pointers.has(offset)) pin(offset, "no relocated pointer refers to it");
  return { ...fatbins, section, data, pointers, pins };
}

function dynamicSymbols(elf: Elf): { value: number }[] {
  const table = sectionNamed(elf, ".dynsym");
  return table === undefined ? [] : readSymbols(elf, table);
}

/**
 * The build id of a file, shrunk or not.
 * @throws DebloatError when it is no ELF file
 */
export function readLibraryId(file: string): string | undefined {
  return buildIdOf(readElf(new Bytes(mapFile(file).data, file)));
}
