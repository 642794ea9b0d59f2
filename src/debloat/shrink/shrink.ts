/** Shrinks one library: reads it, decides, and writes what is left. */
import { mkdirSync } from "node:fs";
import { basename, dirname } from "node:path";
import { DebloatError } from "../../errors.ts";
import { releasePages } from "../../ffi/mapping.ts";
import { requireOptions, requireText } from "../../require.ts";
import { archName } from "../fatbin/fatbin.ts";
import { neededByAny, type Target } from "../fatbin/select.ts";
import { asDebloatError, hashFile, isSameFile, mapFile, withOpened } from "../files.ts";
import { type Library, readLibrary } from "../library.ts";
import type { Pool } from "../pool/pool.ts";
import { profiledLibrary, type ProfiledLibrary } from "../profile/profile.ts";
import { decide, type ShrinkReport } from "./decide.ts";
import { type Chosen, choose, type ShrinkOptions, shrinkOptions } from "./options.ts";
import { writeShrunk, writeSidecar } from "./restore.ts";

/**
 * Shrinks a library.
 * @param output the file to write; undefined: decides and edits, writes nothing
 * @throws DebloatError, OptionError; then nothing was written
 */
export async function shrinkLibrary(
  file: string,
  output: string | undefined,
  options: ShrinkOptions,
  pool: Pool,
): Promise<ShrinkReport> {
  requireOptions("options", options, shrinkOptions);
  const chosen = choose(options, output !== undefined);
  const { data, mode } = mapFile(file);
  requireOtherFiles(file, output, options.sidecar);
  // First, so that a thread is at it while this one reads.
  const hash =
    output !== undefined && options.sidecar !== undefined
      ? pool.run({ kind: "hash" }, data, file)
      : undefined;
  // The first failure is reported; this one is awaited below.
  hash?.catch(() => {});
  const library = readLibrary(data, file);
  releasePages(data);
  requireCode(library, options.arch === undefined ? [] : chosen.targets);
  const profiled = profiledOf(library, chosen);
  const { report, assembly } = await decide(library, chosen, profiled, pool);
  releasePages(data);
  if (output === undefined) return report;
  for (const path of [output, options.sidecar]) if (path !== undefined) makeFolderOf(path);
  const { sidecar } = options;
  const originalHash = await hash;
  const written = withOpened(file, (descriptor) => {
    const source = { data, descriptor, mode };
    if (sidecar === undefined || originalHash === undefined) {
      writeShrunk(output, assembly, source);
      return report;
    }
    const known = { ...source, file, buildId: library.buildId, originalHash };
    let sidecarBytes = 0;
    writeShrunk(output, assembly, source, (shrunkHash) => {
      sidecarBytes = writeSidecar(sidecar, assembly, { ...known, shrunkHash });
    });
    return { ...report, sidecarBytes };
  });
  releasePages(data);
  return written;
}

/** A GPU that was named and that none of the images is for would leave a library empty. */
function requireCode({ file, fatbins, loose }: Library, targets: readonly Target[]): void {
  const containers = [...fatbins, ...loose].flatMap((section) => section.containers);
  if (containers.length === 0) return;
  const missing = targets.filter((target) =>
    containers.every(({ entries }) => neededByAny(entries, [target]).size === 0),
  );
  if (missing.length === 0) return;
  const all = containers.flatMap(({ entries }) => entries).sort((a, b) => a.arch - b.arch);
  const names = [...new Set(all.map(archName))].join(", ");
  throw new DebloatError(
    file,
    `no image for ${missing.map((target) => `sm_${target}`).join(" or ")}; it has ${names}`,
    "name GPUs that it has code for, or leave the library as it is.",
  );
}

function makeFolderOf(path: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true });
  } catch (cause) {
    throw asDebloatError(cause, path);
  }
}

function requireOtherFiles(file: string, output?: string, sidecar?: string): void {
  for (const path of [output, sidecar])
    if (path !== undefined && isSameFile(file, path))
      throw new DebloatError(path, "it is the input", "write to another folder.");
  if (output === undefined || output !== sidecar) return;
  throw new DebloatError(output, "it is both output and sidecar", "give them different names.");
}

/** What the profile says of the library, where a decision needs it. */
function profiledOf(library: Library, options: Chosen): ProfiledLibrary | undefined {
  const { profile, level, host } = options;
  if (profile === undefined) return undefined;
  const id = library.buildId ?? `sha256:${hashFile(library.file)}`;
  const found = profiledLibrary(profile, id, library.file);
  const hasDevice = library.fatbins.length + library.loose.length > 0;
  const needsDevice = level !== "arch" && hasDevice;
  if (found !== undefined || (!needsDevice && host !== "pages")) return found;
  throw new DebloatError(
    library.file,
    `the profile has no run that loaded it (build ${id})`,
    "trace a run that loads it, or shrink it with --arch alone.",
  );
}

/** The name of a library's sidecar: its build id, by which programs find it, else its own name. */
export function sidecarName(buildId: string | undefined, file: string): string {
  requireText("file", file);
  if (buildId !== undefined) requireText("buildId", buildId);
  return `${buildId ?? basename(file)}.side`;
}
