/** Whether a cubin from which kernels were removed is what should be left of the original. */
import {
  type ElfSymbol,
  type Section,
  sectionBytes,
  sectionFlag,
  sectionType,
} from "../elf/elf.ts";
import { type Cubin, isDebug, isRelocation } from "../fatbin/cubin.ts";

const infoTypes = new Set([0x70000000, 0x70000083]);
const callGraphType = 0x70000001;
const absolute = 0xfff1;
const specialSections = 0xff00;

/**
 * The differences of a trimmed cubin that are not allowed, in sentences. Code, constants,
 * parameters and tables of kernels that stay must be the original's bytes; tables that all kernels
 * share may lack entries of kernels that went, and nothing that stays may refer to those.
 */
export function compareCubins(original: Cubin, trimmed: Cubin): string[] {
  const kept = matchSections(original, trimmed);
  if (typeof kept === "string") return [kept];
  const dead = new Map<Section, ReadonlySet<number>>();
  const problems = headerProblems(original, trimmed);
  for (const [section, before] of kept)
    if (trimmed.symbols.has(section.index)) {
      const { indices, problems: found } = deadSymbols(original, trimmed, section, before, kept);
      dead.set(section, indices);
      problems.push(...found);
    }
  const nothing: ReadonlySet<number> = new Set();
  for (const [section, before] of kept) {
    const table = trimmed.elf.sections[section.link];
    const gone = (table === undefined ? undefined : dead.get(table)) ?? nothing;
    const reason = contentProblem(original, trimmed, section, before, gone);
    if (reason !== undefined) problems.push(`section ${section.name} ${reason}`);
    if (section.link !== 0 && kept.get(table)?.index !== before.link)
      problems.push(`section ${section.name} is linked to another`);
  }
  return [
    ...problems,
    ...missingSections(original, kept),
    ...segmentProblems(original, trimmed, kept),
  ];
}

type Kept = ReadonlyMap<Section, Section>;

/** Each section of the trimmed cubin and the one that it was; or which has none. */
function matchSections(original: Cubin, trimmed: Cubin): Kept | string {
  const kept = new Map<Section, Section>();
  const before = original.elf.sections;
  let next = 0;
  for (const section of trimmed.elf.sections) {
    const { name, type, flags, align } = section;
    while (next < before.length && before[next].name !== name) next++;
    const found = before[next++];
    if (found === undefined) return `section ${name} is not the original's`;
    if (found.type !== type || found.flags !== flags || found.align !== align)
      return `section ${name} has another type, flags or alignment`;
    kept.set(section, found);
  }
  return kept;
}

function headerProblems(original: Cubin, trimmed: Cubin): string[] {
  const [before, after] = [original.elf.bytes, trimmed.elf.bytes];
  const same =
    [...Array(6).keys()].every((word) => before.u32(4 * word) === after.u32(4 * word)) &&
    before.u32(48) === after.u32(48);
  return same ? [] : ["its header is for another GPU or ABI"];
}

/** Symbols that lost their sections; all others must be what they were. */
function deadSymbols(
  original: Cubin,
  trimmed: Cubin,
  table: Section,
  before: Section,
  kept: Kept,
): { indices: Set<number>; problems: string[] } {
  const [was, is] = [original.symbols.get(before.index)!, trimmed.symbols.get(table.index)!];
  const indices = new Set<number>();
  if (was.length !== is.length)
    return { indices, problems: [`${table.name} has ${is.length} symbols, not ${was.length}`] };
  const alive = new Set([...kept.values()].map(({ index }) => index));
  const wrong = was.find((old, index) => {
    if (old.section !== 0 && old.section < specialSections && !alive.has(old.section)) {
      indices.add(index);
      return !isNothing(is[index]);
    }
    return !isSameSymbol(old, is[index], (at) => kept.get(trimmed.elf.sections[at])?.index);
  });
  return { indices, problems: wrong === undefined ? [] : [`symbol ${wrong.name} has changed`] };
}

function isNothing({ name, info, other, section, value, bytes }: ElfSymbol): boolean {
  return section === absolute && name === "" && info + other + value + bytes === 0;
}

function isSameSymbol(
  old: ElfSymbol,
  now: ElfSymbol,
  originalIndex: (section: number) => number | undefined,
): boolean {
  const isSpecial = now.section === 0 || now.section >= specialSections;
  return (
    old.section === (isSpecial ? now.section : originalIndex(now.section)) &&
    (["name", "info", "other", "value", "bytes"] as const).every((key) => old[key] === now[key])
  );
}

function contentProblem(
  original: Cubin,
  trimmed: Cubin,
  section: Section,
  before: Section,
  gone: ReadonlySet<number>,
): string | undefined {
  const { type, index } = section;
  if (type === sectionType.nobits)
    return section.bytes === before.bytes ? undefined : "has another size";
  // Symbols were compared one by one, and with sections their names.
  if (type === sectionType.strtab || trimmed.symbols.has(index)) return undefined;
  const [was, is] = [sectionBytes(original.elf, before), sectionBytes(trimmed.elf, section)];
  const isShared = trimmed.owners[index] === index;
  if (isShared && infoTypes.has(type)) return listProblem(infoRecords(was), infoRecords(is), gone);
  if (type === callGraphType) return listProblem(calls(was), calls(is), gone);
  if (Buffer.compare(was, is) !== 0) return "has other bytes";
  if (!isRelocation(type)) return undefined;
  const step = type === sectionType.rel ? 16 : 24;
  const view = new DataView(is.buffer, is.byteOffset, is.byteLength);
  for (let at = 0; at + step <= is.length; at += step)
    if (gone.has(view.getUint32(at + 12, true))) return "refers to a symbol that went";
  return undefined;
}

/** An item of a shared table, and the symbols that it may name. */
interface Item {
  readonly text: string;
  readonly symbols: readonly number[];
}

/** What is left must be the old items in their order, without exactly those that name the dead. */
function listProblem(
  was: readonly Item[],
  is: readonly Item[],
  gone: ReadonlySet<number>,
): string | undefined {
  const wanted = was.filter(({ symbols }) => !symbols.some((symbol) => gone.has(symbol)));
  // A caller that stays keeps what it calls.
  const lost = was.some(({ symbols: [from, to] }) => {
    return to !== undefined && !gone.has(from) && gone.has(to) && from < 0x80000000;
  });
  if (lost) return "lost what code that stays calls";
  return wanted.map(({ text }) => text).join() === is.map(({ text }) => text).join()
    ? undefined
    : "has other entries";
}

/** .nv.info: u8 format, u8 attribute, u16 value; with format 4 that many bytes follow. */
function infoRecords(content: Uint8Array): Item[] {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const registers = 0x2f;
  const stacks = [0x11, 0x12, 0x23];
  const records: Item[] = [];
  for (let at = 0; at + 4 <= content.length;) {
    const end = at + 4 + (content[at] === 4 ? view.getUint16(at + 2, true) : 0);
    const isOfSymbol = end > at + 4 && [registers, ...stacks].includes(content[at + 1]);
    records.push({
      text: Buffer.from(content.subarray(at, end)).toString("hex"),
      symbols: isOfSymbol && at + 8 <= content.length ? [view.getUint32(at + 4, true)] : [],
    });
    at = end;
  }
  return records;
}

/** .nv.callgraph: pairs of symbols, the caller first. */
function calls(content: Uint8Array): Item[] {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  return Array.from({ length: Math.floor(content.length / 8) }, (_, index) => {
    const pair = [view.getUint32(8 * index, true), view.getUint32(8 * index + 4, true)];
    return { text: pair.join(" "), symbols: pair };
  });
}

/** Sections of code that stays, and shared ones, may not be missing; those for debuggers may. */
function missingSections(original: Cubin, kept: Kept): string[] {
  const alive = new Set([...kept.values()].map(({ index }) => index));
  return original.elf.sections
    .filter(({ index, name, flags }) => {
      const owner = original.owners[index];
      const isShared = owner === index && (flags & sectionFlag.exec) === 0;
      return !alive.has(index) && !isDebug(name) && (isShared || alive.has(owner));
    })
    .map(({ name }) => `section ${name} is missing`);
}

/** Each segment must cover what is left of the sections that it covered. */
function segmentProblems(original: Cubin, trimmed: Cubin, kept: Kept): string[] {
  const [before, after] = [original.elf.segments, trimmed.elf.segments];
  if (before.length !== after.length) return ["it has another number of segments"];
  const covers = (cubin: Cubin, segment: number, { offset, bytes }: Section) => {
    const { offset: start, fileBytes } = cubin.elf.segments[segment];
    return offset >= start && offset + bytes <= start + fileBytes;
  };
  return [...kept]
    .filter(([{ flags, type, bytes }]) => {
      return (flags & sectionFlag.alloc) !== 0 && type !== sectionType.nobits && bytes > 0;
    })
    .filter(([section, old]) =>
      before.some((_, segment) => {
        return covers(original, segment, old) && !covers(trimmed, segment, section);
      }),
    )
    .map(([{ name }]) => `section ${name} is in no segment`);
}
