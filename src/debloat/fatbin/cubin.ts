/** Cubins: ELF files of one GPU architecture. Which kernels they hold and what those need. */
import { Bytes, latin1 } from "../bytes.ts";
import {
  type Elf,
  type ElfSymbol,
  machineCuda,
  readElf,
  readSymbols,
  type Section,
  sectionFlag,
  sectionType,
} from "../elf/elf.ts";

/** A kernel of a cubin. */
export interface Kernel {
  /** Mangled. */
  readonly name: string;
  /** Index of the section of its code. */
  readonly section: number;
  /** Code, parameters, constants and tables that are its own. */
  readonly bytes: number;
}

/** A cubin as read. */
export interface Cubin {
  readonly elf: Elf;
  /** Of each section, the section of code that it belongs to, or its own index when shared. */
  readonly owners: readonly number[];
  /** Symbols by the index of their table. */
  readonly symbols: ReadonlyMap<number, readonly ElfSymbol[]>;
  readonly kernels: readonly Kernel[];
  /** Variables that the host can look up, mangled. */
  readonly globals: readonly string[];
  /** Why no kernel may be taken out, if so. */
  readonly whole?: string;
}

/** Set in a symbol's `other` when the host can launch it. */
const entryBit = 0x10;
const symbolType = { object: 1, function: 2 };
/** Relocations of the second code image that sm_100 and later carry. */
const mercRela = 0x70000082;
const mercSymtab = 0x70000085;
const callGraph = 0x70000001;

/** Functions that launch kernels from the GPU: which ones, only they know. */
const deviceLaunch =
  /^(cudaLaunchDevice|cudaGetParameterBuffer|cudaCDP|__cudaCDP|cnp[A-Z]|cudaGraphLaunch)/;
/** Tables of functions that are not followed here. */
const unfollowed = /^\.nv\.(uft|udt)\b/;

/**
 * Reads a cubin.
 * @throws DebloatError when its tables lie outside it
 */
export function readCubin(image: Uint8Array, file: string): Cubin {
  const elf = readElf(new Bytes(image, file));
  if (elf.machine !== machineCuda)
    throw elf.bytes.fail(`a cubin of it is for machine ${elf.machine}, not CUDA's`);
  const symbols = new Map<number, ElfSymbol[]>();
  for (const section of elf.sections)
    if (section.type === sectionType.symtab || section.type === mercSymtab)
      symbols.set(section.index, readSymbols(elf, section));
  const table = elf.sections.find(({ type }) => type === sectionType.symtab);
  const names = table === undefined ? [] : symbols.get(table.index)!;
  const owners = ownersOf(elf);
  return {
    elf,
    owners,
    symbols,
    kernels: kernelsOf(elf, names, owners),
    globals: names.filter(isGlobal).map(({ name }) => name),
    whole: wholeBecause(elf, names),
  };
}

function isGlobal({ info, section, name }: ElfSymbol): boolean {
  return (info & 15) === symbolType.object && section !== 0 && section < 0xff00 && name !== "";
}

/** Sections of code own those that link to them; other sections are shared. */
function ownersOf(elf: Elf): number[] {
  const { sections } = elf;
  const codeByName = new Map<string, number>();
  for (const { index, name, flags } of sections)
    if (flags & sectionFlag.exec && name.length > ".text.".length && name.startsWith(".text."))
      codeByName.set(name.slice(".text.".length), index);
  const owners = sections.map((section) => codeByName.get(belongsTo(section)) ?? section.index);
  // A section may link to one that links to code: two rounds reach all.
  for (let round = 0; round < 2; round++)
    for (const section of sections)
      if (
        linksToCode(section) &&
        section.info < sections.length &&
        owners[section.index] === section.index
      )
        owners[section.index] = owners[section.info];
  // What follows a shared section is shared itself.
  return owners.map((owner, index) => (sections[owner].flags & sectionFlag.exec ? owner : index));
}

/** The function that a section's name ends with, as in .nv.constant0.NAME. */
function belongsTo({ name }: Section): string {
  const pattern =
    /^\.(?:text|nv\.capmerc\.text|nv\.(?:merc\.nv\.)?(?:info|shared|local|constant\d+|constant\.\w+))\.(.+)$/s;
  return pattern.exec(name)?.[1] ?? "";
}

function linksToCode({ flags, type }: Section): boolean {
  return (flags & sectionFlag.infoLink) !== 0 || isRelocation(type);
}

/** Whether a section holds relocations. */
export function isRelocation(type: number): boolean {
  return type === sectionType.rela || type === sectionType.rel || type === mercRela;
}

function kernelsOf(elf: Elf, names: readonly ElfSymbol[], owners: readonly number[]): Kernel[] {
  const bytesOf = new Map<number, number>();
  for (const section of elf.sections) {
    const owner = owners[section.index];
    bytesOf.set(owner, (bytesOf.get(owner) ?? 0) + section.fileBytes);
  }
  return names
    .filter(({ info, other, section }) => {
      return (info & 15) === symbolType.function && other & entryBit && section in elf.sections;
    })
    .map(({ name, section }) => ({ name, section, bytes: bytesOf.get(owners[section]) ?? 0 }));
}

function wholeBecause(elf: Elf, names: readonly ElfSymbol[]): string | undefined {
  if (elf.type !== 2) return "it is relocatable";
  const launcher = names.find(({ name }) => deviceLaunch.test(name));
  if (launcher !== undefined) return `it launches kernels itself (${launcher.name})`;
  const table = elf.sections.find(({ name }) => unfollowed.test(name));
  if (table !== undefined) return `it holds a table of functions (${table.name})`;
  if (elf.sections.some(({ type }) => type === 18)) return "it has very many sections";
  return undefined;
}

/**
 * The sections that some kernels need: their own, all shared ones, and the code that any of these
 * refers to through relocations or the call graph.
 */
export function neededSections(cubin: Cubin, isKept: (kernel: string) => boolean): Set<number> {
  const { elf, owners, kernels } = cubin;
  const edges = references(cubin);
  const needed = new Set<number>();
  const queue: number[] = [];
  const need = (section: number) => {
    const owner = owners[section];
    if (owner === undefined || needed.has(owner)) return;
    needed.add(owner);
    queue.push(owner);
  };
  for (const { index, flags } of elf.sections)
    if (owners[index] === index && !(flags & sectionFlag.exec)) need(index);
  for (const { name, section } of kernels) if (isKept(name)) need(section);
  while (queue.length > 0) for (const to of edges.get(queue.pop()!) ?? []) need(to);
  return new Set(elf.sections.filter(({ index }) => needed.has(owners[index])).map((s) => s.index));
}

/** Sections that a section refers to, by the owner of either. */
function references(cubin: Cubin): Map<number, Set<number>> {
  const { elf, owners, symbols } = cubin;
  const edges = new Map<number, Set<number>>();
  const link = (from: number | undefined, to: number | undefined) => {
    if (from === undefined || to === undefined || from === to) return;
    const known = edges.get(from);
    if (known === undefined) edges.set(from, new Set([to]));
    else known.add(to);
  };
  for (const section of elf.sections) {
    const table = symbols.get(section.link);
    const { offset, fileBytes: length, type, info, name } = section;
    if (table === undefined || isDebug(name)) continue;
    const ownerOf = (symbol: number) => owners[table[symbol]?.section ?? -1];
    if (isRelocation(type)) {
      const step = type === sectionType.rel ? 16 : 24;
      for (let at = offset; at + step <= offset + length; at += step)
        link(owners[info], ownerOf(elf.bytes.u32(at + 12)));
    } else if (type === callGraph) {
      for (let at = offset; at + 8 <= offset + length; at += 8)
        link(ownerOf(elf.bytes.u32(at)), ownerOf(elf.bytes.u32(at + 4)));
    }
  }
  return edges;
}

/** Sections for debuggers, and their relocations. */
export function isDebug(name: string): boolean {
  return /^(\.nv\.merc)?(\.rela?)?\.(debug_|nv_debug)|^\.nv\.merc\.debug_/.test(name);
}

const entryWord = Buffer.from(".entry");
const isSpace = charactersLike(/\s/);
const isInName = charactersLike(/[\w$]/);

/** Whether a byte is a character that matches. */
function charactersLike(pattern: RegExp): boolean[] {
  return Array.from({ length: 256 }, (_, code) => pattern.test(String.fromCharCode(code)));
}

/** Names of the kernels in PTX: only they become text, of which PTX has a hundred times as much. */
export function ptxKernels(image: Uint8Array): string[] {
  const text = Buffer.from(image.buffer, image.byteOffset, image.byteLength);
  const names: string[] = [];
  for (let at = text.indexOf(entryWord); at >= 0; at = text.indexOf(entryWord, at + 1)) {
    const spaces = at + entryWord.length;
    let start = spaces;
    while (isSpace[text[start]]) start++;
    let end = start;
    while (isInName[text[end]]) end++;
    if (start > spaces && end > start) names.push(latin1(text.subarray(start, end)));
  }
  return names;
}
