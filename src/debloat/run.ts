/**
 * Runs a command with shrunk libraries in place of those it loads; nothing installed is touched.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { homedir, tmpdir } from "node:os";
import { basename, join } from "node:path";
import { DebloatError } from "../errors.ts";
import { requireOptions, requireText } from "../require.ts";
import { hashFile } from "./files.ts";
import { readLibraryId } from "./library.ts";
import { overlapped } from "./pool/overlap.ts";
import { Pool } from "./pool/pool.ts";
import { companionPath, preload, preloadable } from "./process/companions.ts";
import { redirectTo, type Replacement } from "./process/redirect.ts";
import { type Ended, runCommand } from "./process/spawn.ts";
import type { Profile } from "./profile/profile.ts";
import { requireProfile } from "./profile/read.ts";
import type { ShrinkReport } from "./shrink/decide.ts";
import { choose, cutOptions, type ShrinkOptions } from "./shrink/options.ts";
import { shrinkLibrary, sidecarName } from "./shrink/shrink.ts";

/** How to run, and how to shrink: as ShrinkOptions, but for the files. */
export interface RunOptions extends Omit<ShrinkOptions, "profile" | "sidecar" | "onProgress"> {
  readonly profile: Profile;
  /** Folder of shrunk libraries; default: flashbun's in the user's cache folder. */
  readonly cache?: string;
  /** Called before a library is shrunk that the cache does not hold. */
  readonly onShrink?: (path: string) => void;
  /** Called with a sentence for each library that stays as it is. */
  readonly onProblem?: (problem: string) => void;
}

const runOptions = ["profile", "cache", "onShrink", "onProblem", ...cutOptions];

/** What came of a run. */
export interface ShrunkRun {
  readonly ended: Ended;
  /** Libraries that were replaced, and their bytes before and after. */
  readonly libraries: number;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  /** Removed pages of host code that were needed after all, by library. */
  readonly pagesBack: ReadonlyMap<string, number>;
}

/** A shrunk library in the cache. */
export interface Cached extends Replacement {
  readonly sidecar: string;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

/**
 * Names of what the loader and its helpers are made of: they run before anything can help them, and
 * CUDA's driver belongs to the machine.
 */
const untouched = /^(ld-linux.*|lib(c|m|dl|rt|pthread|gcc_s|cuda|cupti)\.so.*|libnvidia-.*)$/;

/**
 * Shrinks the libraries that the profile's runs loaded, unless the cache has them, and runs the
 * command with them.
 * @throws OptionError when the command cannot be started or options do not fit each other
 */
export async function runShrunk(
  command: readonly string[],
  options: RunOptions,
): Promise<ShrunkRun> {
  requireOptions("options", options, runOptions);
  requireProfile("profile", options.profile);
  if (options.cache !== undefined) requireText("cache", options.cache);
  choose({ ...options, sidecar: "" }, true);
  const cached = await shrunkLibraries(options);
  const folder = mkdtempSync(join(tmpdir(), "flashbun-run-"));
  try {
    const log = join(folder, "pages");
    const path = (name: "redirect" | "pager") => preloadable(companionPath(name), folder);
    const redirected = redirectTo(cached, mkdirIn(folder, "libraries"), path("redirect"));
    // One folder for all: a list of a hundred would not fit where an audit library reads it.
    const sidecars = mkdirIn(folder, "sidecars");
    for (const { sidecar } of cached)
      symlinkSync(realpathSync(sidecar), join(sidecars, basename(sidecar)));
    const ended = await runCommand(command, {
      ...redirected,
      LD_PRELOAD: preload(path("pager")),
      FLASHBUN_SIDECARS: sidecars,
      FLASHBUN_PAGER_LOG: log,
    });
    const sum = (of: (library: Cached) => number) =>
      cached.reduce((total, library) => total + of(library), 0);
    return {
      ended,
      libraries: cached.length,
      pagesBack: pagesBack(log),
      bytesBefore: sum(({ bytesBefore }) => bytesBefore),
      bytesAfter: sum(({ bytesAfter }) => bytesAfter),
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function mkdirIn(folder: string, name: string): string {
  const path = join(folder, name);
  mkdirSync(path);
  return path;
}

/**
 * Shrinks what the profile's runs loaded, unless the cache has it.
 * @param onReport called with what became of each library that was shrunk
 */
export async function shrunkLibraries(
  options: RunOptions,
  onReport?: (report: ShrinkReport) => void,
): Promise<Cached[]> {
  const { profile, onProblem } = options;
  using pool = new Pool();
  const found = await overlapped(Object.entries(profile.libraries), async ([id, { path }]) => {
    if (untouched.test(basename(path)) || isSmall(path)) return [];
    try {
      requireBuild(path, id);
      const cached = await shrunkLibrary(path, id, options, pool, onReport);
      return cached.bytesAfter < cached.bytesBefore ? [cached] : [];
    } catch (cause) {
      if (!(cause instanceof DebloatError)) throw cause;
      onProblem?.(`${path} stays as it is: ${cause.reason}`);
      return [];
    }
  });
  return found.flat();
}

/** Below this a library is not worth a file in the cache. */
const bytesMin = 2 ** 18;

function isSmall(path: string): boolean {
  return (statSync(path, { throwIfNoEntry: false })?.size ?? bytesMin) < bytesMin;
}

/**
 * Requires that a library is there as the profile knows it.
 * @throws DebloatError
 */
export function requireBuild(path: string, id: string): void {
  if (!existsSync(path)) throw new DebloatError(path, "it is not there", "trace again.");
  const now = readLibraryId(path) ?? `sha256:${hashFile(path)}`;
  if (now === id) return;
  throw new DebloatError(path, `its build is ${now}, the profile's is ${id}`, "trace again.");
}

async function shrunkLibrary(
  path: string,
  id: string,
  options: RunOptions,
  pool: Pool,
  onReport?: (report: ShrinkReport) => void,
): Promise<Cached> {
  const { cache = cacheFolder(), onShrink, onProblem: _, ...rest } = options;
  const folder = join(cache, id.replace(":", "-"), keyOf(path, id, options));
  const replacement = join(folder, basename(path));
  const sidecar = join(folder, sidecarName(id, path));
  // The sidecar is written last.
  if (!existsSync(replacement) || !existsSync(sidecar)) {
    onShrink?.(path);
    // Pages come back by build id alone.
    const host = id.startsWith("sha256:") ? "off" : rest.host;
    const report = await shrinkLibrary(path, replacement, { ...rest, host, sidecar }, pool);
    onReport?.(report);
  }
  return {
    original: path,
    replacement,
    sidecar,
    bytesBefore: statSync(path).size,
    bytesAfter: statSync(replacement).size,
  };
}

/** Whatever the shrunk library depends on. */
function keyOf(path: string, id: string, options: RunOptions): string {
  const { profile, arch, level, keep, host, strip, dropRel, recompress } = options;
  const gpus = profile.runs.map(({ gpu }) => gpu).sort();
  const facts = [formatVersion, profile.libraries[id], gpus, statSync(path).size];
  const choices = [arch, level, keep?.source, keep?.flags, host, strip, dropRel, recompress];
  const text = JSON.stringify([...facts, ...choices]);
  return new Bun.CryptoHasher("sha256").update(text).digest("hex").slice(0, 32);
}

/** Increase it when the same options give different libraries. */
const formatVersion = 3;

/** Where shrunk libraries are kept unless another folder is named. */
export function cacheFolder(): string {
  const { FLASHBUN_CACHE, XDG_CACHE_HOME } = process.env;
  const folder = FLASHBUN_CACHE || join(XDG_CACHE_HOME || join(homedir(), ".cache"), "flashbun");
  return join(folder, "debloat");
}

/** Pages that the pager brought back, counted by library. */
function pagesBack(log: string): Map<string, number> {
  const counts = new Map<string, number>();
  if (!existsSync(log)) return counts;
  const lines = new Set(readFileSync(log, "utf8").split("\n").filter(Boolean));
  for (const line of lines) {
    const { library } = JSON.parse(line) as { library: string };
    counts.set(library, (counts.get(library) ?? 0) + 1);
  }
  return counts;
}
