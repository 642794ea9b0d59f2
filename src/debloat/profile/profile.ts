import { DebloatError } from "../../errors.ts";
import { countOf, joinRanges, subtractRanges } from "../elf/ranges.ts";
import { requireText } from "../../require.ts";
import { joinCubins, joinFunctions, joinNames, joinPages, keyOf } from "./join.ts";
import { requireProfile } from "./read.ts";
import type { ProfiledLibrary, Profile } from "./types.ts";

export type { HostMode, ProfileRun, CubinId, ProfiledLibrary, Profile } from "./types.ts";

/** Bytes of a page as profiles count them. */
export const profilePageBytes = 4096;

/** A profile of no run. */
export function emptyProfile(): Profile {
  return { version: 1, runs: [], libraries: {}, unresolved: { kernels: [], cubins: [] } };
}

/** Everything that either profile holds; a build that both hold is joined. */
export function mergeProfiles(...profiles: readonly Profile[]): Profile {
  profiles.forEach((profile, i) => requireProfile(`profiles[${i}]`, profile));
  const merged = emptyProfile();
  for (const { runs, libraries, unresolved } of profiles) {
    merged.runs.push(...runs);
    for (const [id, library] of Object.entries(libraries)) {
      const known = merged.libraries[id];
      merged.libraries[id] = known === undefined ? library : joinLibraries(known, library);
    }
    merged.unresolved = {
      kernels: joinNames(merged.unresolved.kernels, unresolved.kernels),
      cubins: joinCubins(merged.unresolved.cubins, unresolved.cubins),
    };
  }
  return merged;
}

/** Stripping keeps the build id: of two files of one build the larger is the fuller one. */
function joinLibraries(a: ProfiledLibrary, b: ProfiledLibrary): ProfiledLibrary {
  const { path, bytes } = b.bytes > a.bytes ? b : a;
  return {
    path,
    bytes,
    kernels: joinNames(a.kernels, b.kernels),
    cubins: joinCubins(a.cubins, b.cubins),
    globals: joinNames(a.globals, b.globals),
    pages: joinRanges([...a.pages, ...b.pages]),
    devicePages: joinPages(a.devicePages, b.devicePages),
    functions: joinFunctions(a.functions, b.functions),
  };
}

/**
 * What `from` used and `other` did not. Runs are those of `from`; libraries with nothing left out.
 */
export function subtractProfiles(from: Profile, other: Profile): Profile {
  requireProfile("from", from);
  requireProfile("other", other);
  const left: Profile = { ...emptyProfile(), runs: from.runs };
  for (const [id, library] of Object.entries(from.libraries)) {
    const rest = subtractLibrary(library, other.libraries[id]);
    if (rest !== undefined) left.libraries[id] = rest;
  }
  left.unresolved = {
    kernels: without(from.unresolved.kernels, other.unresolved.kernels, String),
    cubins: without(from.unresolved.cubins, other.unresolved.cubins, keyOf),
  };
  return left;
}

/** A library that the other profile never saw stays even when nothing of it was used. */
function subtractLibrary(
  from: ProfiledLibrary,
  other: ProfiledLibrary | undefined,
): ProfiledLibrary | undefined {
  if (other === undefined) return from;
  const kernels = without(from.kernels, other.kernels, String);
  const cubins = without(from.cubins, other.cubins, keyOf);
  const globals = without(from.globals, other.globals, String);
  const pages = subtractRanges(from.pages, other.pages);
  const devicePages = subtractRanges(from.devicePages ?? [], other.devicePages ?? []);
  const functions = without(from.functions, other.functions, ([vaddr]) => vaddr);
  const left = { kernels, cubins, globals, pages, devicePages, functions };
  if (Object.values(left).every((list) => list.length === 0)) return undefined;
  return { path: from.path, bytes: from.bytes, ...left };
}

function without<T>(list: readonly T[], taken: readonly T[], key: (item: T) => unknown): T[] {
  const known = new Set(taken.map(key));
  return list.filter((item) => !known.has(key(item)));
}

/**
 * What a profile holds for one build of a library; undefined when it never saw that library.
 * @param id build id in hex, or sha256:hex
 * @throws DebloatError when the profile knows a library of that file name, but another build of it
 */
export function profiledLibrary(
  profile: Profile,
  id: string,
  path: string,
): ProfiledLibrary | undefined {
  requireProfile("profile", profile);
  requireText("id", id);
  requireText("path", path);
  const known = profile.libraries[id];
  if (known !== undefined) return known;
  const name = fileName(path);
  const others = Object.entries(profile.libraries).filter(
    ([, { path }]) => fileName(path) === name,
  );
  if (others.length === 0) return undefined;
  throw new DebloatError(
    path,
    `its build is ${id}, but the profile was taken with ${others.map(([id]) => id).join(", ")}`,
    "trace again with this build of the library, or give the library that was traced.",
  );
}

/** Last part of a path. */
function fileName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** What a profile says of one library, in figures. */
export interface LibraryFigures {
  id: string;
  path: string;
  kernels: number;
  cubins: number;
  globals: number;
  pageBytes: number;
  functions: number;
  functionBytes: number;
}

/** The figures of a profile's libraries, those with most code used first. */
export function profileFigures(profile: Profile): LibraryFigures[] {
  return Object.entries(profile.libraries)
    .map(([id, library]) => ({
      id,
      path: library.path,
      kernels: library.kernels.length,
      cubins: library.cubins.length,
      globals: library.globals.length,
      pageBytes: countOf(library.pages) * profilePageBytes,
      functions: library.functions.length,
      functionBytes: library.functions.reduce((sum, [, bytes]) => sum + bytes, 0),
    }))
    .sort(
      (a, b) => b.kernels - a.kernels || b.pageBytes - a.pageBytes || b.functions - a.functions,
    );
}
