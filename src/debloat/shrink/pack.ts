/** Lays what is left of the containers of a section one after another. */
import type { Replacement } from "../elf/elf-cut.ts";
import { type Entry, containerHeader } from "../fatbin/fatbin.ts";
import type { ContainerPlan, SectionPlan } from "./plan.ts";

/** A section after packing. */
export interface Packed {
  /** New size of the section. */
  readonly bytes: number;
  /** New bytes, by offset in the original file; where the section has free room, nothing. */
  readonly replacements: readonly Replacement[];
}

/** A container's new bytes: runs of the section, or new ones. */
type Part = Uint8Array | { readonly offset: number; readonly bytes: number };

const zeros = new Uint8Array(2 ** 20);

/**
 * Packs a section to its front. Containers that cannot move and bytes that hold no container stay
 * in place; room between them is zeroed. Pointers follow what moved.
 * @param edited the new bytes of an entry, if it has any
 */
export function packSection(
  plan: SectionPlan,
  edited: (entry: Entry) => Uint8Array | undefined,
): Packed {
  const { section, pointers, opaque } = plan.source;
  const replacements: Replacement[] = [];
  const fixed = [
    ...plan.containers.flatMap(({ pinned, container }) =>
      pinned === undefined ? [] : [container],
    ),
    ...opaque,
  ].sort((a, b) => a.offset - b.offset);
  let nextFixed = 0;
  let end = 0;
  const zeroTo = (offset: number) => {
    for (; end < offset; end += Math.min(zeros.length, offset - end)) {
      const bytes = Math.min(zeros.length, offset - end);
      const source = zeros.subarray(0, bytes);
      replacements.push({ at: section.offset + end, bytes, source });
    }
  };
  const passFixed = (bytes: number) => {
    for (; nextFixed < fixed.length; nextFixed++) {
      const obstacle = fixed[nextFixed];
      if (end + bytes <= obstacle.offset) return;
      zeroTo(obstacle.offset);
      end = obstacle.offset + obstacle.bytes;
    }
  };
  for (const item of plan.containers) {
    if (item.pinned !== undefined) continue;
    const parts = partsOf(item, edited);
    const bytes = parts.reduce((sum, part) => sum + bytesOf(part), 0);
    passFixed(bytes);
    place(section.offset, end, parts, replacements);
    if (end !== item.container.offset)
      for (const { fileOffset } of pointers.get(item.container.offset) ?? [])
        replacements.push({ at: fileOffset, bytes: 8, source: u64(section.address + end) });
    end += bytes;
  }
  passFixed(Infinity);
  return { bytes: end, replacements };
}

function u64(value: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
  return bytes;
}

function bytesOf(part: Part): number {
  return part instanceof Uint8Array ? part.length : part.bytes;
}

/** Headers of entries that stay are left alone; runs of such entries are one part. */
function partsOf(
  { container, entries }: ContainerPlan,
  edited: (entry: Entry) => Uint8Array | undefined,
): Part[] {
  const isWhole = entries.every(
    ({ entry, action }) => action !== "drop" && edited(entry) === undefined,
  );
  if (isWhole) return [container];
  const parts: Part[] = [];
  for (const { entry, action } of entries) {
    if (action === "drop") continue;
    const content = edited(entry);
    const last = parts.at(-1);
    const bytes = entry.headerBytes + entry.paddedBytes;
    if (content !== undefined) parts.push(content);
    else if (
      last === undefined ||
      last instanceof Uint8Array ||
      last.offset + last.bytes !== entry.offset
    )
      parts.push({ offset: entry.offset, bytes });
    else parts[parts.length - 1] = { offset: last.offset, bytes: last.bytes + bytes };
  }
  return [containerHeader(parts.reduce((sum, part) => sum + bytesOf(part), 0)), ...parts];
}

function place(
  base: number,
  offset: number,
  parts: readonly Part[],
  replacements: Replacement[],
): void {
  let at = base + offset;
  for (const part of parts) {
    const bytes = bytesOf(part);
    if (part instanceof Uint8Array) replacements.push({ at, bytes, source: part });
    else if (base + part.offset !== at)
      replacements.push({ at, bytes, source: base + part.offset });
    at += bytes;
  }
}
