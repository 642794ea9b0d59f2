/** Whether the fat binaries of a shrunk library are a part of the original's. */
import { DebloatError } from "../../errors.ts";
import { countOf, type Ranges, subtractRanges } from "../elf/ranges.ts";
import { type Pointer, pointersInto } from "../elf/relocations.ts";
import { readCubin } from "../fatbin/cubin.ts";
import { type Container, type Entry, imageOf } from "../fatbin/fatbin.ts";
import type { FatbinSection, Library } from "../library.ts";
import { wholePages } from "../profile/host.ts";
import { compareCubins } from "./cubin.ts";

/** What became of device code outside fat binaries. */
export interface LooseComparison {
  readonly same: number;
  readonly gone: number;
  /** What is wrong, in sentences. */
  readonly problems: readonly string[];
}

/**
 * Images outside fat binaries are there as they were, which memory's comparison says, or lack all
 * of their whole pages: none may lack a part.
 * @param missing runs that come from the file no more, [address, bytes]
 */
export function compareLoose({ loose, pageBytes }: Library, missing: Ranges): LooseComparison {
  const found = { same: 0, gone: 0, problems: [] as string[] };
  for (const { section, containers } of loose)
    for (const { offset, headerBytes, paddedBytes } of containers.flatMap((c) => c.entries)) {
      const image: [number, number] = [section.address + offset + headerBytes, paddedBytes];
      const there = subtractRanges([image], missing);
      if (countOf(there) === paddedBytes) {
        found.same++;
        continue;
      }
      found.gone++;
      if (there.some((run) => wholePages(run, pageBytes).length > 0))
        found.problems.push(`${section.name}: the image at offset ${offset} lacks a part`);
    }
  return found;
}

/** What became of the images of a library. */
export interface DeviceComparison {
  readonly containers: number;
  /** Wrappers' and other pointers to containers. */
  readonly pointers: number;
  /** Images with the same bytes, compressed again, with fewer kernels, and gone. */
  readonly images: { same: number; repacked: number; trimmed: number; gone: number };
  /** Kernels of images that kernels were taken out of: left, and gone. */
  readonly kernels: { left: number; gone: number };
  /** What is wrong, in sentences. */
  readonly problems: readonly string[];
}

/**
 * Compares all fat binaries: pointers first, then the containers that they lead to, image by image.
 */
export function compareDevice(original: Library, shrunk: Library): DeviceComparison {
  const found = {
    containers: 0,
    pointers: 0,
    problems: [] as string[],
    images: { same: 0, repacked: 0, trimmed: 0, gone: 0 },
    kernels: { left: 0, gone: 0 },
  };
  for (const before of original.fatbins) {
    const { name } = before.section;
    const after = shrunk.fatbins.find(({ section }) => section.name === name);
    if (after === undefined || after.section.address !== before.section.address) {
      found.problems.push(`section ${name} is missing or at another address`);
      continue;
    }
    const pairs = pairsOf(original, shrunk, before, after, found);
    for (const [from, to] of pairs) {
      found.containers++;
      compareContainers({ section: before, file: original.file }, from, after, to, found);
    }
  }
  return found;
}

type Found = DeviceComparison & { problems: string[]; pointers: number };

/** Containers of the original and what they are now, by the pointers to them. */
function pairsOf(
  original: Library,
  shrunk: Library,
  before: FatbinSection,
  after: FatbinSection,
  found: Found,
): Map<Container, Container> {
  const { name, address, bytes } = before.section;
  const pointersOf = ({ elf }: Library) =>
    pointersInto(elf, address, address + bytes).sort((a, b) => a.location - b.location);
  const [was, is] = [pointersOf(original), pointersOf(shrunk)];
  found.pointers += was.length;
  const pairs = new Map<Container, Container>();
  const wrong = (reason: string) => void found.problems.push(`${name}: ${reason}`);
  if (was.length !== is.length || was.some(({ location }, at) => location !== is[at].location)) {
    wrong("other places point into it");
    return pairs;
  }
  const [startsBefore, startsAfter] = [byAddress(before), byAddress(after)];
  was.forEach(({ location, target }: Pointer, at) => {
    const now = is[at].target;
    const from = startsBefore.get(target);
    // Into the middle of a container: that one is pinned and compared below.
    if (from === undefined) return now === target || wrong(`a pointer to ${target} has moved`);
    const to = startsAfter.get(now);
    if (to === undefined) return wrong(`the pointer at ${location} leads to no container`);
    if ((pairs.get(from) ?? to) !== to) return wrong("two pointers to a container part ways");
    pairs.set(from, to);
  });
  for (const container of before.containers) {
    const to = startsAfter.get(address + container.offset);
    const isPinned = before.pins.has(container.offset);
    if (isPinned && (to === undefined || !isSameRun(before, container, after, to)))
      wrong(`the container at offset ${container.offset} had to stay (it is pinned)`);
    if (isPinned && to !== undefined) pairs.set(container, to);
  }
  for (const run of before.opaque)
    if (!isSameRun(before, run, after, run))
      wrong(`what is no container at offset ${run.offset} has changed`);
  return pairs;
}

function byAddress({ section, containers }: FatbinSection): Map<number, Container> {
  return new Map(containers.map((container) => [section.address + container.offset, container]));
}

type Run = { readonly offset: number; readonly bytes: number };

function isSameRun(before: FatbinSection, from: Run, after: FatbinSection, to: Run): boolean {
  return from.bytes === to.bytes && Buffer.compare(runOf(before, from), runOf(after, to)) === 0;
}

function runOf({ data }: FatbinSection, { offset, bytes }: Run): Uint8Array {
  return data.subarray(offset, offset + bytes);
}

/** Entries that are left must be the original's, in their order. */
function compareContainers(
  before: { section: FatbinSection; file: string },
  from: Container,
  after: FatbinSection,
  to: Container,
  found: Found,
): void {
  let next = 0;
  for (const entry of to.entries) {
    const verdicts: string[] = [];
    let match: Match | undefined;
    while (match === undefined && next < from.entries.length) {
      const candidate = from.entries[next++];
      const verdict = compareEntries(before, candidate, after, entry);
      if (typeof verdict !== "string") match = verdict;
      else {
        found.images.gone++;
        if (verdict !== "") verdicts.push(verdict);
      }
    }
    if (match === undefined) {
      const reason = verdicts[0] ?? "the original has none like it";
      found.problems.push(
        `${after.section.name}: the image at offset ${entry.offset} ` +
          `is not the original's: ${reason}`,
      );
      return;
    }
    found.images[match.kind]++;
    found.kernels.left += match.left;
    found.kernels.gone += match.gone;
  }
  found.images.gone += from.entries.length - next;
}

interface Match {
  kind: "same" | "repacked" | "trimmed";
  left: number;
  gone: number;
}

/** How an entry came from another; else why it did not, "" where they are for different GPUs. */
function compareEntries(
  { section, file }: { section: FatbinSection; file: string },
  from: Entry,
  after: FatbinSection,
  to: Entry,
): Match | string {
  const [was, is] = [wholeEntry(from), wholeEntry(to)];
  if (isSameRun(section, was, after, is)) return { kind: "same", left: 0, gone: 0 };
  if (from.kindCode !== to.kindCode || from.arch !== to.arch || from.variant !== to.variant)
    return "";
  if (!isSameHeader(section.data.subarray(from.offset), after.data.subarray(to.offset), from))
    return "its header has changed";
  try {
    const images = [imageOf(section.data, from, file), imageOf(after.data, to, file)];
    const [before, now] = images;
    if (before === undefined || now === undefined) return "its image is not plain and has changed";
    // An image that is not packed ends with padding.
    const length = Math.min(before.length, now.length);
    const isPadding = (image: Uint8Array) =>
      image.length - length < 8 && !image.subarray(length).some(Boolean);
    if (
      Buffer.compare(before.subarray(0, length), now.subarray(0, length)) === 0 &&
      isPadding(before) &&
      isPadding(now)
    )
      return { kind: "repacked", left: 0, gone: 0 };
    if (from.kind !== "cubin") return "its image has changed";
    const [full, trimmed] = [readCubin(before, file), readCubin(now, file)];
    const problem = compareCubins(full, trimmed)[0];
    if (problem !== undefined) return problem;
    const left = trimmed.kernels.length;
    return { kind: "trimmed", left, gone: full.kernels.length - left };
  } catch (error) {
    if (error instanceof DebloatError) return error.reason;
    throw error;
  }
}

/** Sizes may differ, and the two flags that say how the image is packed. */
function isSameHeader(was: Uint8Array, is: Uint8Array, { headerBytes }: Entry): boolean {
  const packing = 0xa0;
  const mayDiffer = (at: number) => (at >= 8 && at < 20) || (at >= 56 && at < 64);
  for (let at = 0; at < headerBytes; at++)
    if (!mayDiffer(at) && (was[at] ^ is[at]) & (at === 41 ? ~packing : 0xff)) return false;
  return true;
}

function wholeEntry({ offset, headerBytes, paddedBytes }: Entry): Run {
  return { offset, bytes: headerBytes + paddedBytes };
}
