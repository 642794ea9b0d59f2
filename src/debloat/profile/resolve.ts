/**
 * From what processes said to a profile: paths become builds, images and names find their library.
 */
import { realpathSync, statSync } from "node:fs";
import { basename } from "node:path";
import { crc32 } from "node:zlib";
import { DebloatError } from "../../errors.ts";
import { releasePages } from "../../ffi/mapping.ts";
import { Bytes } from "../bytes.ts";
import { buildIdOf, type Elf, readElf, sectionBytes, sectionNamed } from "../elf/elf.ts";
import { readFunctions } from "../elf/functions.ts";
import { joinRanges, type Ranges, subtractRanges } from "../elf/ranges.ts";
import { reachableFunctions } from "../elf/jumps.ts";
import { contentsOf } from "../fatbin/contents.ts";
import {
  type Container,
  discardImage,
  type Entry,
  imageOf,
  readFatbins,
} from "../fatbin/fatbin.ts";
import { neededByAny } from "../fatbin/select.ts";
import { hashFile, mapFile } from "../files.ts";
import { fatbinSections } from "../library.ts";
import { type LooseSection, readLoose } from "../loose.ts";
import { joinCubins, joinNames } from "./join.ts";
import {
  type CubinId,
  emptyProfile,
  mergeProfiles,
  type Profile,
  profilePageBytes,
  type ProfiledLibrary,
} from "./profile.ts";
import type { TracedLibrary, TraceEvents } from "./trace-events.ts";

/** Names and images whose library is still to be found. */
interface Missing {
  readonly names: ReadonlySet<string>;
  readonly cubins: readonly CubinId[];
  readonly foundNames: Set<string>;
  readonly foundCubins: Set<CubinId>;
  /** The GPU that ran. */
  readonly targets: readonly number[];
  /** Whether what some process touched is not known. */
  readonly isLost: boolean;
}

/**
 * The profile of what processes said, without its run.
 * @param onProblem called with a sentence for each library that cannot be read any more
 */
export function resolveTrace(
  events: TraceEvents,
  onProblem: (problem: string) => void = () => {},
): Profile {
  const { kernels, globals, cubins, gpu } = events;
  const missing: Missing = {
    names: kernels.union(globals),
    cubins: [...cubins.values()],
    foundNames: new Set(),
    foundCubins: new Set(),
    targets: gpu === null ? [] : [gpu.arch],
    isLost: events.lost > 0,
  };
  const profiles: Profile[] = [];
  const unwatched: string[] = [];
  for (const [path, traced] of events.libraries) {
    if (/\/libflashbun-[a-z]+\.so$/.test(path)) continue;
    try {
      const { id, library, isUnwatched } = resolveLibrary(path, traced, missing);
      if (isUnwatched) unwatched.push(basename(path));
      profiles.push({ ...emptyProfile(), libraries: { [id]: library } });
    } catch (cause) {
      if (!(cause instanceof DebloatError)) throw cause;
      onProblem(`${cause.file} was loaded but is left out: ${cause.reason}`);
    }
  }
  if (unwatched.length > 0)
    onProblem(
      `it is not known what was read of the device code outside fat binaries of ` +
        `${unwatched.join(", ")}: of it what may be linked stays`,
    );
  const unresolved = {
    kernels: joinNames([...kernels.difference(missing.foundNames)], []),
    cubins: joinCubins(
      missing.cubins.filter((cubin) => !missing.foundCubins.has(cubin)),
      [],
    ),
  };
  return mergeProfiles(...profiles, { ...emptyProfile(), unresolved });
}

function resolveLibrary(
  path: string,
  traced: TracedLibrary,
  missing: Missing,
): { id: string; library: ProfiledLibrary; isUnwatched: boolean } {
  const { data } = mapFile(path);
  const elf = readElf(new Bytes(data, path));
  const fatbins = elf.sections.filter(({ name }) => name === fatbinSections.loaded);
  const loose = readLoose(elf, fatbins);
  const device = findIn(elf, missing, loose);
  const host = traced.untraced ? { pages: [], functions: [] } : hostOf(elf, traced);
  const isUnknown = missing.isLost || traced.isUnread;
  const devicePages = isUnknown ? undefined : touchedOf(loose, traced.touched);
  const library = {
    path: realpathSync(path),
    bytes: statSync(path).size,
    kernels: joinNames([...traced.kernels], device.kernels),
    cubins: joinCubins(device.cubins, []),
    globals: joinNames([...traced.globals], device.globals),
    devicePages,
    ...host,
  };
  const id = buildIdOf(elf) ?? `sha256:${hashFile(path)}`;
  releasePages(data);
  return { id, library, isUnwatched: loose.length > 0 && devicePages === undefined };
}

/** Of the pages that were touched, those with device code outside fat binaries. */
function touchedOf(loose: readonly LooseSection[], touched: Ranges | undefined) {
  if (touched === undefined) return undefined;
  const pages = joinRanges(
    loose.flatMap(({ section: { address }, containers }) =>
      containers.map(({ offset, bytes }): [number, number] => {
        const first = Math.floor((address + offset) / profilePageBytes);
        return [first, Math.ceil((address + offset + bytes) / profilePageBytes) - first];
      }),
    ),
  );
  return subtractRanges(pages, subtractRanges(pages, touched));
}

/** Functions that were not watched count as entered: they may have been. */
function hostOf(elf: Elf, { pages, watched, entered }: TracedLibrary) {
  if (watched.length === 0) return { pages, functions: [] };
  const functions = readFunctions(elf);
  const wasWatched = new Set(watched.map(([vaddr]) => vaddr));
  const unwatched = functions.filter(([vaddr]) => !wasWatched.has(vaddr));
  const kept = entered.union(new Set(unwatched.map(([vaddr]) => vaddr)));
  return { pages, functions: reachableFunctions(elf, functions, kept) };
}

/** Which of the missing names and images a library holds. */
function findIn(elf: Elf, missing: Missing, loose: readonly LooseSection[]) {
  const found = { kernels: [] as string[], globals: [] as string[], cubins: [] as CubinId[] };
  if (missing.names.size === 0 && missing.cubins.length === 0) return found;
  const section = sectionNamed(elf, fatbinSections.loaded);
  if (section !== undefined) {
    const data = sectionBytes(elf, section);
    findInContainers(data, readFatbins(data, elf.bytes.file).containers, elf, missing, found);
  }
  for (const { data, containers } of loose) findInContainers(data, containers, elf, missing, found);
  return found;
}

function findInContainers(
  data: Uint8Array,
  containers: readonly Container[],
  { bytes: { file } }: Elf,
  missing: Missing,
  found: { kernels: string[]; globals: string[]; cubins: CubinId[] },
): void {
  for (const { entries } of containers) {
    const needed = neededByAny(entries, missing.targets);
    for (const entry of entries) {
      const cubins = cubinsIn(data, entry, file, missing);
      const isCandidate = missing.names.size > 0 && needed.has(entry);
      if (cubins.length === 0 && !isCandidate) continue;
      const { bytes, crc32, kernels, globals } = contentsOf(data, entry, file);
      // By the image's own size: the driver does not count padding.
      if (cubins.length > 0) found.cubins.push({ bytes, crc32 });
      for (const cubin of cubins) missing.foundCubins.add(cubin);
      const names = kernels.map(({ name }) => name).filter((name) => missing.names.has(name));
      const variables = globals.filter((name) => missing.names.has(name));
      for (const name of [...names, ...variables]) missing.foundNames.add(name);
      found.kernels.push(...names);
      found.globals.push(...variables);
    }
  }
}

/** The missing images that are this entry's. */
function cubinsIn(data: Uint8Array, entry: Entry, file: string, missing: Missing): CubinId[] {
  if (entry.kind !== "cubin") return [];
  const paddingMax = 8;
  const candidates = missing.cubins.filter(
    ({ bytes }) => bytes <= entry.rawBytes && bytes > entry.rawBytes - paddingMax,
  );
  if (candidates.length === 0) return [];
  const image = imageOf(data, entry, file);
  if (image === undefined) return [];
  const found = candidates.filter((cubin) => crc32(image.subarray(0, cubin.bytes)) === cubin.crc32);
  discardImage(entry, image);
  return found;
}
