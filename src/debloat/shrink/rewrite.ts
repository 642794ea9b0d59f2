/** Puts a shrunk library together, as runs of the original and new bytes, and writes it. */
import { DebloatError } from "../../errors.ts";
import type { Cut } from "../elf/cut.ts";
import { cutFile, type Replacement } from "../elf/elf-cut.ts";
import { type Elf, loadedSegments, type Section, sectionFlag, sectionNamed } from "../elf/elf.ts";
import { joinRanges, type Ranges, subtractRanges } from "../elf/ranges.ts";
import type { Entry } from "../fatbin/fatbin.ts";
import { type Library, shrunkMark, shrunkMarkBytes } from "../library.ts";
import { wholePages } from "../profile/host.ts";
import { packSection } from "./pack.ts";
import type { SectionPlan } from "./plan.ts";

/** A run of the new file: new bytes, or a run of the original from this offset. */
export interface Part {
  readonly bytes: number;
  readonly source: Uint8Array | number;
}

/** A run of pages that a program may need after all. */
export interface GonePages {
  readonly address: number;
  readonly bytes: number;
  /** In the original. */
  readonly offset: number;
  /** Rights of its segment, as ELF has them. */
  readonly flags: number;
  /** Host code, else device code. */
  readonly isHost: boolean;
}

/** A library taken apart for writing. */
export interface Assembly {
  /** The new file from its start to its end. */
  readonly parts: readonly Part[];
  readonly bytes: number;
  /** Pages that are in no part and come back one by one, by ascending address. */
  readonly pages: readonly GonePages[];
  /** New bytes of each section of fat binaries, by its name. */
  readonly fatbinBytes: ReadonlyMap<string, number>;
}

/** Pages of a section that go: the program reads zeros there where it may write. */
export interface LoosePages {
  readonly section: Section;
  readonly isWritable: boolean;
  readonly runs: Ranges;
}

/** What is decided about a library. */
export interface Decisions {
  readonly device: readonly SectionPlan[];
  /** The new bytes of an entry, if it has any. */
  readonly edited: (entry: Entry) => Uint8Array | undefined;
  /** Runs of pages of host code to remove, [virtual address, bytes]. */
  readonly hostPages: Ranges;
  /** Runs of pages of device code outside fat binaries, [file offset, bytes]. */
  readonly loose: readonly LoosePages[];
  readonly stripped: readonly Section[];
}

/** Sections that only debuggers and linkers read: symbol tables, their names, debug information. */
export function strippable(elf: Elf): Section[] {
  const symtab = sectionNamed(elf, ".symtab");
  const isLoaded = ({ flags }: Section) => (flags & sectionFlag.alloc) !== 0;
  return elf.sections.filter(
    (section) =>
      !isLoaded(section) &&
      (section === symtab ||
        (symtab !== undefined && section.index === symtab.link && section.name === ".strtab") ||
        /^\.(z?debug_|rela?\.debug_|gdb_index)/.test(section.name)),
  );
}

/**
 * The new file of a library.
 * @throws DebloatError when parts of the library overlap such that nothing can be taken out safely
 */
export function assemble(library: Library, decisions: Decisions): Assembly {
  const { elf, pageBytes } = library;
  const holes: [number, number][] = [];
  const freed: [number, number][] = [];
  const holed = new Set<number>();
  const sizes = new Map<number, number>();
  const fatbinBytes = new Map<string, number>();
  const replacements: Replacement[] = [];
  for (const plan of decisions.device) {
    const { section } = plan.source;
    const packed = packSection(plan, decisions.edited);
    replacements.push(...packed.replacements);
    sizes.set(section.index, packed.bytes);
    fatbinBytes.set(section.name, packed.bytes);
    const free: [number, number] = [section.offset + packed.bytes, section.bytes - packed.bytes];
    freed.push(free);
    const runs = wholePages(free, pageBytes);
    if (runs.length > 0) holed.add(section.index);
    holes.push(...runs);
  }
  const pages = gonePages(elf, decisions);
  for (const { section, runs } of decisions.loose) if (runs.length > 0) holed.add(section.index);
  const text = sectionNamed(elf, ".text");
  if (text !== undefined && decisions.hostPages.length > 0) holed.add(text.index);
  holes.push(...pages.map(({ bytes, offset }): [number, number] => [offset, bytes]));
  const zeros = decisions.loose.flatMap(({ isWritable, runs }) => (isWritable ? runs : []));
  const cut: Cut = {
    holes: joinRanges(holes),
    zeros: joinRanges(zeros),
    free: joinRanges(freed),
    holed,
    sizes,
    pageBytes,
    stripped: decisions.stripped,
  };
  const { removed, replacements: tables, appended } = cutFile(elf, cut);
  const parts = partsOf(elf, removed, [...replacements, ...tables]);
  if (appended.length > 0) parts.push({ bytes: appended.length, source: appended });
  const written = parts.reduce((sum, { bytes }) => sum + bytes, 0);
  const mark = shrunkMarkOf(elf.bytes.length, written);
  parts.push({ bytes: mark.length, source: mark });
  const isGone = isRemoved(removed);
  return {
    parts,
    fatbinBytes,
    bytes: written + mark.length,
    // A file that would have too many segments keeps them.
    pages: pages.flatMap(isGone),
  };
}

/** Host code and device code that goes by pages. */
function gonePages(elf: Elf, { hostPages, loose }: Decisions): GonePages[] {
  const text = sectionNamed(elf, ".text");
  const shift = text === undefined ? 0 : text.offset - text.address;
  const device = joinRanges(loose.flatMap(({ runs }) => runs));
  const host = subtractRanges(
    hostPages.map(([address, bytes]) => [address + shift, bytes]),
    device,
  );
  const pagesOf = (isHost: boolean, [offset, bytes]: [number, number]): GonePages => {
    const home = loadedSegments(elf).find(
      (segment) => offset >= segment.offset && offset < segment.offset + segment.fileBytes,
    )!;
    const address = home.address + (offset - home.offset);
    return { address, bytes, offset, flags: home.flags, isHost };
  };
  return [
    ...host.map((run) => pagesOf(true, run)),
    ...device.map((run) => pagesOf(false, run)),
  ].sort((a, b) => a.address - b.address);
}

function isRemoved(removed: Ranges) {
  return (pages: GonePages): GonePages[] => {
    const { address, offset, bytes } = pages;
    const kept = subtractRanges([[offset, bytes]], removed);
    return subtractRanges([[offset, bytes]], kept).map(([start, length]) => {
      return { ...pages, address: address + (start - offset), bytes: length, offset: start };
    });
  };
}

function shrunkMarkOf(originalBytes: number, bytes: number): Uint8Array {
  const mark = new Uint8Array(shrunkMarkBytes);
  mark.set(Buffer.from(shrunkMark, "latin1"));
  const view = new DataView(mark.buffer);
  view.setBigUint64(16, BigInt(originalBytes), true);
  view.setBigUint64(24, BigInt(bytes + mark.length), true);
  return mark;
}

/** The original without removed runs, with replacements in place. */
function partsOf(elf: Elf, removed: Ranges, replacements: Replacement[]): Part[] {
  const ordered = replacements.sort((a, b) => a.at - b.at);
  const parts: Part[] = [];
  let next = 0;
  for (const [start, bytes] of subtractRanges([[0, elf.bytes.length]], removed)) {
    const end = start + bytes;
    let at = start;
    for (; next < ordered.length && ordered[next].at < end; next++) {
      const { at: from, bytes: length, source } = ordered[next];
      if (length === 0) continue;
      if (from < at || from + length > end) throw overlap(elf);
      if (from > at) parts.push({ bytes: from - at, source: at });
      parts.push({ bytes: length, source });
      at = from + length;
    }
    if (at < end) parts.push({ bytes: end - at, source: at });
  }
  if (next < ordered.length) throw overlap(elf);
  return parts;
}

function overlap(elf: Elf): DebloatError {
  return elf.bytes.fail("tables of it overlap", "give a library as a linker wrote it.");
}
