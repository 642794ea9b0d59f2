/** Which pages of host code a profile leaves unused. */
import { fileOffsetOf, type Section, sectionNamed } from "../elf/elf.ts";
import type { HostFunctions } from "../elf/functions.ts";
import { joinRanges, type Ranges, subtractRanges } from "../elf/ranges.ts";
import { calledAtLoad } from "../elf/relocations.ts";
import type { Library } from "../library.ts";
import type { ProfiledLibrary } from "./profile.ts";
import { profilePageBytes } from "./profile.ts";

/** Code that no unwind table covers, up to which length it is padding between functions. */
const paddingBytesMax = 64;
/** Runs below this are not worth a segment of their own. */
const runBytesMin = 16_384;
/** Most segments that a part of a library is split into: each costs the loader a mapping. */
const runsMax = 1000;

/**
 * Runs of pages of .text that may go, [address, bytes]: those that no run touched, that unwind
 * tables know as code of functions, and that hold nothing the loader itself calls.
 */
export function unusedPages(
  library: Library,
  functions: HostFunctions,
  profiled: ProfiledLibrary,
): Ranges {
  const { elf, pageBytes } = library;
  const text = sectionNamed(elf, ".text");
  if (text === undefined || fileOffsetOf(elf, text.address, text.bytes) === undefined) return [];
  const kept = joinRanges([
    ...profiled.pages.map(([page, count]): [number, number] => [
      page * profilePageBytes,
      count * profilePageBytes,
    ]),
    ...profiled.functions,
    ...uncovered(text, functions),
    ...calledByLoader(library, functions),
  ]);
  const free = subtractRanges([[text.address, text.bytes]], kept);
  return largestRuns(free.flatMap((run) => wholePages(run, pageBytes)));
}

/** The whole pages of a run, if any. */
export function wholePages([start, bytes]: readonly [number, number], pageBytes: number): Ranges {
  const first = pageBytes * Math.ceil(start / pageBytes);
  const last = pageBytes * Math.floor((start + bytes) / pageBytes);
  return last > first ? [[first, last - first]] : [];
}

/** The runs that are worth it, so many that a loader can map what is left. */
export function largestRuns(runs: Ranges): Ranges {
  return runs
    .filter(([, bytes]) => bytes >= runBytesMin)
    .sort((a, b) => b[1] - a[1])
    .slice(0, runsMax)
    .sort((a, b) => a[0] - b[0]);
}

/** Parts of .text that belong to no function and are too long for padding: code of assemblers. */
function uncovered(text: Section, functions: HostFunctions): Ranges {
  const gaps = subtractRanges([[text.address, text.bytes]], joinRanges(functions));
  return gaps.filter(([, bytes]) => bytes > paddingBytesMax);
}

/** Functions that run when the library is loaded and unloaded, and its entry point. */
function calledByLoader({ elf }: Library, functions: HostFunctions): Ranges {
  const starts = new Map(functions);
  const whole = (address: number): [number, number] => [address, starts.get(address) ?? 1];
  return [...calledAtLoad(elf), elf.bytes.u64(24)].map(whole);
}
