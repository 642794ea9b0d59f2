/** Decides what goes of device code outside fat binaries: pure, with a reason for every image. */
import { joinRanges, type Ranges } from "../elf/ranges.ts";
import type { Container, Entry } from "../fatbin/fatbin.ts";
import type { Contents } from "../fatbin/contents.ts";
import { isUnknown, runsOn } from "../fatbin/select.ts";
import type { Library } from "../library.ts";
import type { LooseSection } from "../loose.ts";
import { largestRuns, wholePages } from "../profile/host.ts";
import { profilePageBytes } from "../profile/profile.ts";
import {
  type ContainerPlan,
  type DeviceOptions,
  drop,
  type EntryPlan,
  keep,
  type Known,
  type Level,
  matches,
  namesOf,
  planImage,
  type SectionPlan,
  takenBy,
  unknownBecause,
  type Usage,
  usage,
} from "./plan.ts";
import type { LoosePages } from "./rewrite.ts";

/** What becomes of a section with device code outside fat binaries. */
export type LoosePlan = SectionPlan<LooseSection>;

/**
 * The plan for all of a library's device code outside fat binaries. Images stay whole or go whole.
 * By architecture only cubins go that no GPU in question can run: what else is there, the library
 * may compile for any GPU.
 */
export function planLoose(library: Library, options: DeviceOptions, known: Known): LoosePlan[] {
  const isUsed = usage(library, options, known);
  return library.loose.map((source) => ({
    source,
    containers: source.containers.map((container): ContainerPlan => {
      const pinned = source.pins.get(container.offset);
      const entries = container.entries.map((entry) =>
        pinned === undefined
          ? planEntry(source, container, entry, isUsed, options, known)
          : keep(entry, `pinned: ${pinned}`),
      );
      return { container, entries, ...(pinned === undefined ? {} : { pinned }) };
    }),
  }));
}

function planEntry(
  source: LooseSection,
  container: Container,
  entry: Entry,
  isUsed: Usage,
  options: DeviceOptions,
  known: Known,
): EntryPlan {
  const { targets, level, profiled } = options;
  if (isUnknown(entry)) return keep(entry, unknownBecause(entry));
  const isForOthers = targets.length > 0 && !targets.some((target) => runsOn(entry, target));
  if (entry.kind === "cubin" && isForOthers) return drop(entry, `no ${namesOf(targets)} takes it`);
  if (level === "arch")
    return keep(entry, entry.kind === "cubin" ? takenBy(options) : "it may serve any GPU");
  const isRead = wasRead(source, container, profiled?.devicePages);
  if (isRead === true) return keep(entry, "a run read it");
  const contents = known(source, entry);
  if (isRead === false && (options.keep === undefined || contents !== undefined)) {
    const isKept = contents?.kernels.some(({ name }) => matches(options.keep, name)) === true;
    return isKept ? keep(entry, "a kernel of it is to stay") : drop(entry, "no run read it");
  }
  if (isRead === undefined && isForLinker(entry, contents))
    return keep(entry, "it may be linked, and no run watched whether it was read");
  return planImage(entry, contents, isUsed, { ...options, level: "cubin" });
}

/** Whether a compiler or linker may take it: the names looked up then are those of the result. */
function isForLinker({ kind }: Entry, contents: Contents | undefined): boolean {
  return kind !== "cubin" || contents?.isPart === true;
}

/** Whether a run touched a page of it; undefined where that was not watched. */
function wasRead(
  { section }: LooseSection,
  { offset, bytes }: Container,
  pages: Ranges | undefined,
): boolean | undefined {
  if (pages === undefined) return undefined;
  const first = Math.floor((section.address + offset) / profilePageBytes);
  const last = Math.floor((section.address + offset + bytes - 1) / profilePageBytes);
  return pages.some(([page, count]) => page <= last && first < page + count);
}

/** Zeros between two images, up to which number they are padding and no value of their own. */
const paddingBytesMax = 15;

/**
 * The whole pages that hold nothing but what goes. Where reading a page
 * that is gone would end the program, a choice by architecture leaves headers: a library may look
 * through them all.
 */
export function pagesToGo(
  { source, containers }: LoosePlan,
  level: Level,
  pageBytes: number,
): LoosePages {
  const { section, data, isWritable } = source;
  const leavesHeaders = level === "arch" && !isWritable;
  const gone = containers.flatMap(({ container, entries }): [number, number][] =>
    !leavesHeaders && entries.every(({ action }) => action === "drop")
      ? [[container.offset, container.bytes]]
      : entries.flatMap(({ entry, action }): [number, number][] =>
          action === "drop" ? [[entry.offset + entry.headerBytes, entry.paddedBytes]] : [],
        ),
  );
  const joined = joinRanges(
    gone.map((run, at) => withPadding(run, gone[at + 1], data, isWritable)),
  );
  const runs = joined.flatMap(([at, bytes]) => wholePages([section.offset + at, bytes], pageBytes));
  return { section, isWritable, runs: largestRuns(runs) };
}

/** A run with the zeros after it, where the next follows them: as zeros they may be gone too. */
function withPadding(
  [at, bytes]: [number, number],
  next: [number, number] | undefined,
  data: Uint8Array,
  isWritable: boolean,
): [number, number] {
  const end = at + bytes;
  if (next === undefined) return [at, bytes];
  const between = data.subarray(end, next[0]);
  const isPadding = isWritable
    ? between.length < profilePageBytes
    : between.length <= paddingBytesMax;
  return isPadding && between.every((byte) => byte === 0) ? [at, next[0] - at] : [at, bytes];
}
