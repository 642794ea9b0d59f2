/** The table of sections of a library from which pages were cut. */
import { Patch } from "../bytes.ts";
import { type Elf, type Section, sectionHeaderBytes, sectionType } from "./elf.ts";
import type { Cut } from "./cut.ts";
import { type Ranges, subtractRanges } from "./ranges.ts";

/**
 * The table of sections. One with holes ends at the first; each part that follows has a header of
 * its own behind all others, as tools that write the file anew keep only what a section stands for.
 */
export function sectionTable(
  elf: Elf,
  cut: Cut,
  holes: Ranges,
  moved: (offset: number) => number,
): Uint8Array {
  const length = elf.sections.length * sectionHeaderBytes;
  const table = new Patch(elf.bytes.slice(elf.sectionsOffset, length));
  const gone = new Set(cut.stripped.map(({ index }) => index));
  const more: Uint8Array[] = [];
  for (const section of elf.sections) {
    const { index, offset, address, fileBytes: bytes, type } = section;
    const at = index * sectionHeaderBytes;
    if (index === 0 || type === sectionType.null) continue;
    // Others refer to sections by number: one that goes leaves an empty place.
    if (gone.has(index)) {
      table.bytes.fill(0, at, at + sectionHeaderBytes);
      continue;
    }
    table.u64(at + 24, moved(offset));
    if (bytes === 0) continue;
    const [first, ...rest] = partsOfSection(section, cut, holes);
    table.u64(at + 32, first.bytes);
    for (const part of rest) {
      const header = new Patch(table.bytes.subarray(at, at + sectionHeaderBytes));
      if (part.isZeros) header.u32(4, sectionType.nobits);
      header.u64(16, address + (part.offset - offset)).u64(24, moved(part.offset));
      more.push(header.u64(32, part.bytes).bytes);
    }
  }
  // Numbers from 0xff00 on mean something else.
  const hasRoom = elf.sections.length + more.length < sectionsMax;
  return hasRoom ? Buffer.concat([table.bytes, ...more]) : table.bytes;
}

const sectionsMax = 0xff00;

interface SectionPart {
  readonly offset: number;
  readonly bytes: number;
  readonly isZeros: boolean;
}

/** What is left of a section, by ascending offset: the first part begins where it did. */
function partsOfSection(
  { index, offset, fileBytes }: Section,
  { sizes, zeros }: Cut,
  holes: Ranges,
): [SectionPart, ...SectionPart[]] {
  const whole: Ranges = [[offset, sizes.get(index) ?? fileBytes]];
  const inside = subtractRanges(whole, subtractRanges(whole, zeros));
  const parts = [
    ...subtractRanges(whole, holes).map(([at, bytes]) => ({ offset: at, bytes, isZeros: false })),
    ...inside.map(([at, bytes]) => ({ offset: at, bytes, isZeros: true })),
  ].sort((a, b) => a.offset - b.offset);
  const [first, ...rest] = parts;
  if (first !== undefined && first.offset === offset && !first.isZeros) return [first, ...rest];
  return [{ offset, bytes: 0, isZeros: false }, ...parts];
}
