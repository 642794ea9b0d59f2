/** What a library consists of, and what each way of shrinking it would save. */
import { releasePages } from "../../ffi/mapping.ts";
import { sectionFlag, sectionNamed } from "../elf/elf.ts";
import { readFunctions } from "../elf/functions.ts";
import type { Contents } from "../fatbin/contents.ts";
import { archName, type Entry } from "../fatbin/fatbin.ts";
import { mapFile } from "../files.ts";
import { fatbinSections, type Library, readLibrary, shrunkFrom } from "../library.ts";
import type { DeviceSection } from "../loose.ts";
import { batches } from "../pool/jobs.ts";
import type { Pool } from "../pool/pool.ts";
import { pagesToGo, planLoose } from "../shrink/loose.ts";
import { type DeviceOptions, planDevice } from "../shrink/plan.ts";
import { type Decisions, assemble, strippable } from "../shrink/rewrite.ts";

/** A section of the file. */
export interface SectionFigures {
  name: string;
  bytes: number;
  /** What it is: host code, fat binaries, symbols and so on. */
  part: string;
}

/** An image of a container. */
export interface ImageFigures {
  arch: string;
  kind: string;
  compression: string;
  /** Header, image and padding as they are stored. */
  bytes: number;
  rawBytes: number;
  kernels: number;
  /** Mangled names and bytes of the largest kernels, or of all. */
  kernelNames: { name: string; bytes: number }[];
  /** What is odd about it: unknown flags, an image that cannot be read. */
  note?: string;
}

/** A container. */
export interface ContainerFigures {
  section: string;
  offset: number;
  bytes: number;
  /** Relocated pointers that refer to it. */
  pointers: number;
  /** Whether it lies outside the sections of fat binaries. */
  isLoose: boolean;
  pinned?: string;
  images: ImageFigures[];
}

/** Images of one architecture and kind. */
export interface ArchFigures {
  section: string;
  arch: string;
  kind: string;
  images: number;
  bytes: number;
  rawBytes: number;
  kernels: number;
  /** Images by compression. */
  none: number;
  lz4: number;
  zstd: number;
}

/** What an option would save of the file; `isBound` when a profile decides how much of it. */
export interface Saving {
  option: string;
  bytes: number;
  isBound: boolean;
}

/** A library's figures. */
export interface Inspection {
  file: string;
  bytes: number;
  buildId: string | null;
  /** Bytes that it had before it was shrunk; null for an original. */
  shrunkFrom: number | null;
  sections: SectionFigures[];
  archs: ArchFigures[];
  containers: ContainerFigures[];
  /** Bytes of sections of fat binaries that hold no container. */
  opaque: { section: string; bytes: number; reason: string }[];
  functions: { count: number; bytes: number; textBytes: number };
  symbols: { table: string; count: number; bytes: number }[];
  savings: Saving[];
}

/** How many kernels of an image are named. */
const kernelsNamed = 8;

/**
 * Reads a library and looks into all its images.
 * @param allKernels whether every kernel is named, or only the largest of each image
 * @throws DebloatError
 */
export async function inspectLibrary(
  file: string,
  pool: Pool,
  allKernels = false,
): Promise<Inspection> {
  const { data } = mapFile(file);
  const shrunk = shrunkFrom(data);
  const library = readLibrary(shrunk?.data ?? data, file);
  const { elf } = library;
  releasePages(data);
  const containers = await figuresOf(library, pool, allKernels);
  const functions = readFunctions(elf);
  const inspection: Inspection = {
    file,
    bytes: data.length,
    buildId: library.buildId ?? null,
    shrunkFrom: shrunk?.bytes ?? null,
    sections: sectionsOf(library, data.length),
    archs: archsOf(containers),
    containers,
    opaque: library.fatbins.flatMap(({ section, opaque }) =>
      opaque.map(({ bytes, reason }) => ({ section: section.name, bytes, reason })),
    ),
    functions: {
      count: functions.length,
      bytes: functions.reduce((sum, [, bytes]) => sum + bytes, 0),
      textBytes: sectionNamed(elf, ".text")?.bytes ?? 0,
    },
    symbols: [".symtab", ".dynsym"].flatMap((table) => {
      const section = sectionNamed(elf, table);
      if (section === undefined) return [];
      const names = elf.sections[section.link]?.bytes ?? 0;
      return [{ table, count: Math.floor(section.bytes / 24), bytes: section.bytes + names }];
    }),
    savings: savingsOf(
      library,
      functions.reduce((sum, [, bytes]) => sum + bytes, 0),
    ),
  };
  releasePages(data);
  return inspection;
}

/** The part of device code that no section of fat binaries holds. */
const looseCode = "device code outside fat binaries";

const parts: [RegExp, string][] = [
  [/^\.nv_fatbin$/, "fat binaries"],
  [/^__nv_relfatbin$/, "relocatable fat binaries"],
  [/^\.(text|plt|init|fini)\b/, "host code"],
  [/^\.(symtab|strtab)$/, "symbols"],
  [/^\.z?debug_|^\.gdb_index/, "debug information"],
  [/^\.(dynsym|dynstr|gnu\.(hash|version)|hash)/, "dynamic symbols"],
  [/^\.(rela?|relr)\b/, "relocations"],
  [/^\.(eh_frame|gcc_except_table)/, "unwind tables"],
];

/** Sections with bytes in the file, and what no section holds. */
function sectionsOf({ elf, loose }: Library, fileBytes: number): SectionFigures[] {
  const sections = elf.sections
    .filter(({ fileBytes }) => fileBytes > 0)
    .flatMap((section): SectionFigures[] => {
      const { name, fileBytes: bytes, flags } = section;
      const isLoaded = (flags & sectionFlag.alloc) !== 0;
      const known = parts.find(([pattern]) => pattern.test(name))?.[1];
      const part = known ?? (isLoaded ? "data" : "other");
      const device = loose.find((found) => found.section === section)?.containers ?? [];
      const deviceBytes = device.reduce((sum, container) => sum + container.bytes, 0);
      if (deviceBytes === 0) return [{ name, bytes, part }];
      const rest = { name, bytes: bytes - deviceBytes, part };
      return [{ name, bytes: deviceBytes, part: looseCode }, ...(rest.bytes > 0 ? [rest] : [])];
    });
  const rest = fileBytes - sections.reduce((sum, { bytes }) => sum + bytes, 0);
  if (rest > 0) sections.push({ name: "(headers and padding)", bytes: rest, part: "other" });
  return sections.sort((a, b) => b.bytes - a.bytes);
}

async function figuresOf(
  library: Library,
  pool: Pool,
  allKernels: boolean,
): Promise<ContainerFigures[]> {
  const found = new Map<Entry, Contents>();
  await Promise.all(
    [...library.fatbins, ...library.loose].flatMap(({ section, containers }) => {
      const entries = containers.flatMap((container) => container.entries);
      return batches(entries, ({ paddedBytes }) => paddedBytes).map(async (batch) => {
        const range = { offset: section.offset, bytes: section.bytes };
        const job = { kind: "look", section: range, entries: batch } as const;
        const contents = await pool.run(job, library.elf.bytes.data, library.file);
        batch.forEach((entry, index) => found.set(entry, contents[index]));
      });
    }),
  );
  return [...library.fatbins, ...library.loose].flatMap((source) =>
    source.containers.map(({ offset, bytes, entries }): ContainerFigures => {
      const pinned = source.pins.get(offset);
      const isLoose = !("pointers" in source);
      return {
        section: source.section.name,
        offset,
        bytes,
        isLoose,
        pointers: isLoose ? 0 : (source.pointers.get(offset)?.length ?? 0),
        ...(pinned === undefined ? {} : { pinned }),
        images: entries.map((entry) => imageFigures(entry, found.get(entry), allKernels)),
      };
    }),
  );
}

function imageFigures(
  entry: Entry,
  contents: Contents | undefined,
  allKernels: boolean,
): ImageFigures {
  const { kind, compression, rawBytes, headerBytes, paddedBytes, unknownFlags } = entry;
  const kernels = [...(contents?.kernels ?? [])].sort((a, b) => b.bytes - a.bytes);
  const note =
    unknownFlags === 0 ? contents?.unreadable : `unknown flags 0x${unknownFlags.toString(16)}`;
  return {
    arch: archName(entry),
    kind,
    compression,
    rawBytes,
    bytes: headerBytes + paddedBytes,
    kernels: kernels.length,
    kernelNames: allKernels ? kernels : kernels.slice(0, kernelsNamed),
    ...(note === undefined || kind === "lto" ? {} : { note }),
  };
}

function archsOf(containers: readonly ContainerFigures[]): ArchFigures[] {
  const found = new Map<string, ArchFigures>();
  for (const { section, images } of containers)
    for (const { arch, kind, compression, bytes, rawBytes, kernels } of images) {
      const key = `${section} ${arch}`;
      const none = { images: 0, bytes: 0, rawBytes: 0, kernels: 0, none: 0, lz4: 0, zstd: 0 };
      const row = found.get(key) ?? { section, arch, kind, ...none };
      row.images++;
      row.bytes += bytes;
      row.rawBytes += rawBytes;
      row.kernels += kernels;
      row[compression as "none" | "lz4" | "zstd"]++;
      found.set(key, row);
    }
  const numberOf = ({ arch }: ArchFigures) => Number(/\d+/.exec(arch)?.[0]);
  return [...found.values()].sort(
    (a, b) =>
      a.section.localeCompare(b.section) ||
      numberOf(a) - numberOf(b) ||
      a.arch.localeCompare(b.arch),
  );
}

/** Exact for what needs no profile: the file is planned with each option alone. */
function savingsOf(library: Library, functionBytes: number): Saving[] {
  const { elf, fatbins, loose } = library;
  const fileBytes = (decisions: Partial<Decisions>) =>
    assemble(library, {
      device: [],
      hostPages: [],
      loose: [],
      stripped: [],
      edited: () => undefined,
      ...decisions,
    }).bytes;
  const whole = fileBytes({});
  const device = (more: Partial<DeviceOptions>): Partial<Decisions> => {
    const options: DeviceOptions = { targets: [], level: "arch", dropRel: false, ...more };
    const nothing = () => undefined;
    const loose = planLoose(library, options, nothing);
    return {
      device: planDevice(library, options, nothing),
      loose: loose.map((plan) => pagesToGo(plan, "arch", library.pageBytes)),
    };
  };
  const exact = (option: string, decisions: Partial<Decisions>): Saving => {
    return { option, bytes: whole - fileBytes(decisions), isBound: false };
  };
  const targets = targetsOf([...fatbins, ...loose]);
  const savings = targets.map((target) =>
    exact(`--arch sm_${target}`, device({ targets: [target] })),
  );
  if (fatbins.some(({ section }) => section.name === fatbinSections.relocatable))
    savings.push(exact("--drop-rel", device({ dropRel: true })));
  savings.push(exact("--strip", { stripped: strippable(elf) }));
  const isLoaded = ({ section }: DeviceSection) => section.name !== fatbinSections.relocatable;
  const bytes = [...fatbins, ...loose]
    .filter(isLoaded)
    .flatMap(({ containers }) => containers)
    .reduce((sum, container) => sum + container.bytes, 0);
  if (bytes > 0) savings.push({ option: "--level kernel", bytes, isBound: true });
  savings.push({ option: "--host pages", bytes: functionBytes, isBound: true });
  return savings;
}

/** GPUs that cubins of a library are made for. */
function targetsOf(sections: readonly DeviceSection[]): number[] {
  const archs = sections
    .flatMap(({ containers }) => containers.flatMap(({ entries }) => entries))
    .flatMap(({ kind, arch }) => (kind === "cubin" ? [arch] : []));
  return [...new Set(archs)].sort((a, b) => a - b);
}
