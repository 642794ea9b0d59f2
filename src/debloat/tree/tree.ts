/** A slim copy of a whole environment, such as a Python one, and the way back. */
import { realpathSync, rmSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { DebloatError, OptionError } from "../../errors.ts";
import { requireOptions, requireText } from "../../require.ts";
import { asDebloatError, hashFile, mapFile } from "../files.ts";
import { isShrunk, readLibraryId, shrunkFrom } from "../library.ts";
import { overlapped } from "../pool/overlap.ts";
import { Pool } from "../pool/pool.ts";
import { choose, type Chosen, cutOptions, type ShrinkOptions } from "../shrink/options.ts";
import { restoreFile } from "../shrink/restore.ts";
import { shrinkLibrary, sidecarName } from "../shrink/shrink.ts";
import { isElf, layOut, makeFolders, share, type TreeFile } from "./copy.ts";
import { isRecord, writeRecord } from "./record.ts";

/** How to shrink what is in a folder: as ShrinkOptions, and what is said meanwhile. */
export interface TreeOptions extends Omit<ShrinkOptions, "onProgress"> {
  /** Folder for what is removed; it must not be there yet. */
  readonly sidecar?: string;
  /** Called before a library is shrunk. */
  readonly onShrink?: (name: string) => void;
  /** Called with a sentence for each library that stays as it is and might have been shrunk. */
  readonly onProblem?: (problem: string) => void;
}

/** A library of a copied folder. */
export interface TreeLibrary {
  /** From the folder on. */
  readonly name: string;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  /** Whether the profile knows it: others lose only the code of other GPUs. */
  readonly isProfiled: boolean;
}

/** What came of copying a folder. */
export interface TreeReport {
  readonly files: number;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  readonly libraries: readonly TreeLibrary[];
  /** Lists of sums that were brought up to date. */
  readonly records: number;
}

/** Below this a library is not worth the work. */
const bytesMin = 2 ** 18;

const treeOptions = ["sidecar", "onShrink", "onProblem", "profile", ...cutOptions];

/**
 * Makes a slim copy of a folder: libraries that the profile knows by build are shrunk by it, others
 * by GPU alone; all other files share their blocks with the original. RECORD files say the new
 * sums. The copy appears whole or not at all.
 * @throws DebloatError, OptionError; then nothing was written
 */
export async function slimTree(
  source: string,
  output: string,
  options: TreeOptions,
): Promise<TreeReport> {
  requireFolders(source, output);
  requireOptions("options", options, treeOptions);
  const { onShrink, onProblem, sidecar, ...rest } = options;
  const chosen = choose({ ...rest, ...(sidecar === undefined ? {} : { sidecar }) }, true);
  if (chosen.targets.length + Number(chosen.strip === true) === 0 && chosen.profile === undefined)
    throw new OptionError(
      "arch",
      chosen.arch,
      "a list of GPUs where there is no profile, nor strip",
      "give --arch, --profile or --strip.",
    );
  using pool = new Pool();
  const sidecars = sidecar === undefined ? [] : [sidecar];
  const taken = new Set<string>();
  return await makeFolders(source, [output, ...sidecars], (folder, cold) =>
    copyTree(source, folder, async (file, path) => {
      const id = idOfLibrary(file);
      const library = id === undefined ? undefined : optionsFor(id, chosen);
      if (id === undefined || library === undefined) return undefined;
      const name = sidecarName(readLibraryId(file.path), file.path);
      const side = cold === undefined ? undefined : join(cold, name);
      if (side !== undefined && !newTo(taken, name)) {
        onProblem?.(`${file.name} stays as it is: another library has its build id`);
        return undefined;
      }
      onShrink?.(file.name);
      try {
        const withSidecar = side === undefined ? library : { ...library, sidecar: side };
        const { before, after } = await shrinkLibrary(file.path, path, withSidecar, pool);
        if (after.file >= before.file) {
          for (const made of [path, side]) if (made !== undefined) rmSync(made);
          return undefined;
        }
      } catch (cause) {
        if (!(cause instanceof DebloatError)) throw cause;
        taken.delete(name);
        onProblem?.(`${file.name} stays as it is: ${cause.reason}`);
        return undefined;
      }
      return { isProfiled: chosen.profile?.libraries[id] !== undefined };
    }),
  );
}

/** Adds a name to those that are taken; whether it was not there. */
function newTo(taken: Set<string>, name: string): boolean {
  const before = taken.size;
  return taken.add(name).size > before;
}

/**
 * Makes a copy of a slim folder in which every library is as it was, bit for bit.
 * @param sidecar the folder that slimTree wrote beside it
 * @throws DebloatError when something does not fit; then nothing was written
 */
export async function restoreTree(
  slim: string,
  sidecar: string,
  output: string,
): Promise<TreeReport> {
  requireFolders(slim, output);
  requireText("sidecar", sidecar);
  return await makeFolders(slim, [output], (folder) =>
    copyTree(slim, folder, async (file, path) => {
      if (!isElf(file.path) || !isShrunk(mapFile(file.path).data)) return undefined;
      const id = readLibraryId(file.path);
      restoreFile(file.path, join(sidecar, sidecarName(id, file.path)), path);
      return { isProfiled: false };
    }),
  );
}

function requireFolders(source: string, output: string): void {
  requireText("source", source);
  requireText("output", output);
  if (isFolder(source)) return;
  throw new DebloatError(source, "it is no folder", "give an environment's folder.");
}

function isFolder(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
  } catch (cause) {
    throw asDebloatError(cause, path);
  }
}

/** Writes another file in place of one; undefined: the file stays as it is. */
type Change = (file: TreeFile, path: string) => Promise<{ isProfiled: boolean } | undefined>;

async function copyTree(source: string, folder: string, change: Change): Promise<TreeReport> {
  const files = layOut(realpathSync(source), folder);
  const changed = new Map<string, { path: string; bytes: number }>();
  const libraries = await overlapped(
    files.filter(({ name }) => !isRecord(name)),
    async (file): Promise<TreeLibrary[]> => {
      const path = join(folder, file.name);
      const made = file.bytes === 0 ? undefined : await change(file, path);
      if (made === undefined) {
        share(file.path, path);
        return [];
      }
      const { size } = statSync(path);
      changed.set(file.name, { path, bytes: size });
      return [{ name: file.name, bytesBefore: file.bytes, bytesAfter: size, ...made }];
    },
  );
  let records = 0;
  for (const { path, name } of files.filter(({ name }) => isRecord(name))) {
    const output = join(folder, name);
    if (writeRecord({ path, name, output }, changed)) records++;
    else share(path, output);
  }
  const bytesBefore = files.reduce((sum, { bytes }) => sum + bytes, 0);
  const shrunk = libraries.flat();
  const saved = shrunk.reduce(
    (sum, { bytesBefore, bytesAfter }) => sum + bytesBefore - bytesAfter,
    0,
  );
  const bytesAfter = bytesBefore - saved;
  return { files: files.length, bytesBefore, bytesAfter, libraries: shrunk, records };
}

/** The build of a library that may be worth the work; undefined for every other file. */
function idOfLibrary({ path, name, bytes }: TreeFile): string | undefined {
  if (bytes < bytesMin || !/\.so(\.|$)/.test(basename(name)) || !isElf(path)) return undefined;
  try {
    if (shrunkFrom(mapFile(path).data) !== undefined) return undefined;
    return readLibraryId(path) ?? `sha256:${hashFile(path)}`;
  } catch (cause) {
    if (cause instanceof DebloatError) return undefined;
    throw cause;
  }
}

/** All options for a library that runs loaded; what needs no profile for another. */
function optionsFor(id: string, chosen: Chosen): ShrinkOptions | undefined {
  const { targets, level, ...options } = chosen;
  if (options.profile?.libraries[id] !== undefined) return { ...options, level };
  const { strip, dropRel, recompress, keep } = options;
  const rest = { strip, dropRel, recompress };
  // By profile, so that a library without code for the GPU is no error.
  const gpus = { profile: options.profile, arch: options.arch, level: "arch" } as const;
  if (options.profile === undefined) return { ...options, level, keep };
  return targets.length > 0 || strip ? { ...rest, ...gpus } : undefined;
}
