/** Device code that lies outside the sections of fat binaries, where the loader maps it. */
import { type Elf, loadedSegments, type Section, sectionBytes, sectionFlag } from "./elf/elf.ts";
import { relocatedPlaces } from "./elf/relocations.ts";
import { type Container } from "./fatbin/fatbin.ts";
import { findLoose } from "./fatbin/find.ts";

/** A section that holds device code. */
export interface DeviceSection {
  readonly section: Section;
  readonly data: Uint8Array;
  readonly containers: readonly Container[];
  /** Why containers stay where and as they are, by their offset in the section. */
  readonly pins: ReadonlyMap<number, string>;
}

/** Device code that the library's own code loads: nothing of it moves, but its pages can go. */
export interface LooseSection extends DeviceSection {
  /** Whether the program may write there: removed pages are then zeros, else not mapped. */
  readonly isWritable: boolean;
}

const writable = 2;

/**
 * Looks through every section that the loader maps.
 * @param known sections of fat binaries, which are read as such
 */
export function readLoose(elf: Elf, known: readonly Section[]): LooseSection[] {
  const taken = new Set(known.map(({ index }) => index));
  return elf.sections.flatMap((section): LooseSection[] => {
    const { index, flags, fileBytes } = section;
    if (taken.has(index) || fileBytes === 0 || !(flags & sectionFlag.alloc)) return [];
    // Of thread-local data each thread has a copy.
    if (flags & sectionFlag.threadLocal) return [];
    const segment = segmentOf(elf, section);
    if (segment === undefined) return [];
    const data = sectionBytes(elf, section);
    const containers = findLoose(data, elf.bytes.file);
    if (containers.length === 0) return [];
    const isWritable = (segment.flags & writable) !== 0;
    return [{ section, data, containers, pins: pinsOf(elf, section, containers), isWritable }];
  });
}

function segmentOf(elf: Elf, { offset, fileBytes, address }: Section) {
  return loadedSegments(elf).find(
    (segment) =>
      offset >= segment.offset &&
      offset + fileBytes <= segment.offset + segment.fileBytes &&
      address - offset === segment.address - segment.offset,
  );
}

/** Containers that the loader itself writes into. */
function pinsOf(
  elf: Elf,
  { address, bytes }: Section,
  containers: readonly Container[],
): ReadonlyMap<number, string> {
  const pins = new Map<number, string>();
  for (const place of relocatedPlaces(elf, address, address + bytes)) {
    const found = containerAt(containers, place - address);
    if (found !== undefined) pins.set(found.offset, "the loader writes into it");
  }
  return pins;
}

/** The container that holds an offset of the section; containers ascend. */
export function containerAt(containers: readonly Container[], at: number): Container | undefined {
  let low = 0;
  let high = containers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (containers[middle].offset + containers[middle].bytes <= at) low = middle + 1;
    else high = middle;
  }
  const found = containers[low];
  return found !== undefined && found.offset <= at ? found : undefined;
}
