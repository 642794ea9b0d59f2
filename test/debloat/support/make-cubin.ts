/** Cubins, containers and libraries made by hand: small, seeded, and known to the last byte. */
import { seeded } from "../../support/random.ts";

/** A function of a cubin; `calls` names functions that its code is relocated to. */
export interface MadeFunction {
  name: string;
  bytes: number;
  calls?: string[];
}

/** What a cubin is made of. */
export interface MadeCubin {
  arch: number;
  seed: number;
  kernels: MadeFunction[];
  /** Functions that only kernels call. */
  functions?: MadeFunction[];
  /** Functions whose addresses are in a table of global memory. */
  pointers?: string[];
  globals?: string[];
}

interface MadeSection {
  name: string;
  type: number;
  flags: number;
  content: Uint8Array;
  align: number;
  link?: string;
  info?: string | number;
  /** Bytes of memory without bytes in the file. */
  zeroBytes?: number;
}

const type = {
  bits: 1,
  symtab: 2,
  strtab: 3,
  rela: 4,
  nobits: 8,
  info: 0x70000000,
  graph: 0x70000001,
};
const flags = { alloc: 2, write: 1, exec: 4, info: 0x40 };

/** Text with an index: offsets of names that end in NUL. */
class Names {
  readonly #offsets = new Map<string, number>();
  #bytes = Buffer.from([0]);

  at(name: string): number {
    if (name === "") return 0;
    const known = this.#offsets.get(name);
    if (known !== undefined) return known;
    const offset = this.#bytes.length;
    this.#offsets.set(name, offset);
    this.#bytes = Buffer.concat([this.#bytes, Buffer.from(`${name}\0`, "latin1")]);
    return offset;
  }

  get bytes(): Uint8Array {
    return this.#bytes;
  }
}

function words(...values: number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

/** The code of a function, the same for the same seed and name. */
export function codeOf(seed: number, { name, bytes }: MadeFunction): Uint8Array {
  const random = seeded(seed + Bun.hash.crc32(name));
  return Uint8Array.from({ length: bytes }, () => random.integer(0, 255));
}

/** A cubin of sm_`arch`, linked, with the sections that nvcc makes. */
export function makeCubin(made: MadeCubin): Uint8Array {
  const { arch, seed, kernels, functions = [], pointers = [], globals = [] } = made;
  const all = [...kernels, ...functions];
  const names = new Names();
  // Symbol 0 is nothing; then one a section of code, variables, and last what is global: functions.
  const order = [...all.map(({ name }) => `.text.${name}`), ...globals, ...all.map((f) => f.name)];
  const symbolOf = (name: string) => 1 + order.lastIndexOf(name);
  const rela = (target: string, offset: number) => [offset, 0, 0x38, symbolOf(target), 0, 0];
  const sections: MadeSection[] = [];
  const add = (section: MadeSection) => void sections.push(section);
  sections.push(...sharedTables(all, symbolOf));
  for (const kernel of kernels)
    add({
      name: `.nv.info.${kernel.name}`,
      type: type.info,
      flags: flags.info,
      align: 4,
      link: ".symtab",
      info: `.text.${kernel.name}`,
      content: words(4 | (0x17 << 8) | (4 << 16), kernel.bytes),
    });
  for (const { name, calls = [] } of all)
    if (calls.length > 0)
      add({
        name: `.rela.text.${name}`,
        type: type.rela,
        flags: flags.info,
        align: 8,
        link: ".symtab",
        info: `.text.${name}`,
        content: words(...calls.flatMap((callee, at) => rela(callee, 16 * at))),
      });
  if (pointers.length > 0)
    add({
      name: ".rela.nv.global.init",
      type: type.rela,
      flags: flags.info,
      align: 8,
      link: ".symtab",
      info: ".nv.global.init",
      content: words(...pointers.flatMap((callee, at) => rela(callee, 8 * at))),
    });
  for (const made of all)
    add({
      name: `.text.${made.name}`,
      type: type.bits,
      flags: flags.alloc | flags.exec,
      align: 128,
      content: codeOf(seed, made),
      link: ".symtab",
      info: symbolOf(made.name),
    });
  add({
    name: ".nv.global.init",
    type: type.bits,
    flags: flags.alloc | flags.write,
    align: 8,
    content: new Uint8Array(8 * Math.max(1, pointers.length) + 4 * globals.length),
  });
  sections.push(...kernels.flatMap((kernel) => memoryOf(seed, kernel)));
  const symbols = symbolsOf(made, order, names);
  return link(arch, sections, symbols, names, all.length + 1);
}

/** Tables that all functions share: their registers, and who calls whom. */
function sharedTables(
  all: readonly MadeFunction[],
  symbolOf: (name: string) => number,
): MadeSection[] {
  const info: MadeSection = {
    name: ".nv.info",
    type: type.info,
    flags: 0,
    align: 4,
    link: ".symtab",
    content: Buffer.concat(
      all.flatMap(({ name }) =>
        [0x2f, 0x11].map((attribute) =>
          words(4 | (attribute << 8) | (8 << 16), symbolOf(name), 32),
        ),
      ),
    ),
  };
  const graph: MadeSection = {
    name: ".nv.callgraph",
    type: type.graph,
    flags: 0,
    align: 4,
    link: ".symtab",
    content: Buffer.concat([
      words(0, 0xffffffff),
      ...all.flatMap(({ name, calls = [] }) =>
        calls.map((callee) => words(symbolOf(name), symbolOf(callee))),
      ),
    ]),
  };
  return [info, graph];
}

/** Sections of a kernel's memory: constants, and shared memory for some. */
function memoryOf(seed: number, { name, bytes }: MadeFunction): MadeSection[] {
  const owned = { flags: flags.alloc | flags.info, info: `.text.${name}` };
  const content = codeOf(seed + 1, { name, bytes: 536 });
  const constants = { name: `.nv.constant0.${name}`, type: type.bits, content, align: 4, ...owned };
  if (bytes % 256 !== 0) return [constants];
  return [
    {
      ...owned,
      name: `.nv.shared.${name}`,
      type: type.nobits,
      flags: owned.flags | flags.write,
      align: 16,
      content: new Uint8Array(),
      zeroBytes: 256,
    },
    constants,
  ];
}

/** Symbols in their order: of sections, variables, and last what is global. */
function symbolsOf(made: MadeCubin, order: readonly string[], names: Names): MadeSymbol[] {
  const { kernels, functions = [], globals = [] } = made;
  const all = [...kernels, ...functions];
  return order.map((name, at) => {
    const isSection = name.startsWith(".text.");
    const isGlobal = globals.includes(name);
    const isKernel = at >= all.length && kernels.some((kernel) => kernel.name === name);
    return {
      name: names.at(isSection ? "" : name),
      info: isSection ? 3 : isGlobal ? 0x11 : 0x12,
      other: isKernel ? 0x10 : 0,
      home: isSection ? name : isGlobal ? ".nv.global.init" : `.text.${name}`,
      bytes: all.find((f) => f.name === name)?.bytes ?? 0,
    };
  });
}

interface MadeSymbol {
  name: number;
  info: number;
  other: number;
  home: string;
  bytes: number;
}

/** Lays the sections out, as nvcc does: contents, section headers, program headers. */
function link(
  arch: number,
  sections: MadeSection[],
  symbols: MadeSymbol[],
  names: Names,
  locals: number,
): Uint8Array {
  const sectionNames = new Names();
  const strings = { type: type.strtab, flags: 0, align: 1 };
  const all: MadeSection[] = [
    { name: ".shstrtab", content: new Uint8Array(), ...strings },
    // Last, so that taking sections out moves what others link to.
    ...sections,
    { name: ".strtab", content: names.bytes, ...strings },
    {
      name: ".symtab",
      type: type.symtab,
      flags: 0,
      align: 8,
      link: ".strtab",
      info: locals,
      content: new Uint8Array(24 * (symbols.length + 1)),
    },
  ];
  const indexOf = (name: string) => 1 + all.findIndex((section) => section.name === name);
  for (const { name } of all) sectionNames.at(name);
  all[0].content = sectionNames.bytes;
  const table = new DataView(all.at(-1)!.content.buffer);
  symbols.forEach(({ name, info, other, home, bytes }, at) => {
    table.setUint32(24 * at + 24, name, true);
    table.setUint8(24 * at + 28, info);
    table.setUint8(24 * at + 29, other);
    table.setUint16(24 * at + 30, indexOf(home), true);
    table.setUint32(24 * at + 40, bytes, true);
  });
  let end = 64;
  const offsets = all.map(({ content, align }) => {
    const at = align * Math.ceil(end / align);
    end = at + content.length;
    return at;
  });
  const headersAt = 8 * Math.ceil(end / 8);
  const segmentsAt = headersAt + 64 * (all.length + 1);
  const loads = all.flatMap(({ flags: held, content }, at) =>
    held & flags.alloc && content.length > 0 ? [at] : [],
  );
  const file = new Uint8Array(segmentsAt + 56);
  const view = new DataView(file.buffer);
  const header = [0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 65, 8];
  file.set(header);
  view.setUint16(16, 2, true);
  view.setUint16(18, 190, true);
  view.setUint32(20, 1, true);
  view.setBigUint64(32, BigInt(segmentsAt), true);
  view.setBigUint64(40, BigInt(headersAt), true);
  view.setUint32(48, 0x6000004 | (arch << 8), true);
  for (const [at, value] of [64, 56, 1, 64, all.length + 1, 1].entries())
    view.setUint16(52 + 2 * at, value, true);
  all.forEach((section, at) => {
    file.set(section.content, offsets[at]);
    const base = headersAt + 64 * (at + 1);
    const { info = 0, link } = section;
    view.setUint32(base, sectionNames.at(section.name), true);
    view.setUint32(base + 4, section.type, true);
    view.setUint32(base + 8, section.flags, true);
    view.setUint32(base + 24, offsets[at], true);
    view.setUint32(base + 32, section.zeroBytes ?? section.content.length, true);
    view.setUint32(base + 40, link === undefined ? 0 : indexOf(link), true);
    view.setUint32(base + 44, typeof info === "string" ? indexOf(info) : info, true);
    view.setUint32(base + 48, section.align, true);
    const isTable = section.type === type.symtab || section.type === type.rela;
    view.setUint32(base + 56, isTable ? 24 : section.type === type.graph ? 8 : 0, true);
  });
  const first = offsets[loads[0]];
  const last = loads.at(-1)!;
  view.setUint32(segmentsAt, 1, true);
  view.setUint32(segmentsAt + 8, first, true);
  view.setUint32(segmentsAt + 32, offsets[last] + all[last].content.length - first, true);
  view.setUint32(segmentsAt + 40, offsets[last] + all[last].content.length - first, true);
  return file;
}
