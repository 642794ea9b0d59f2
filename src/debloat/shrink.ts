/** Shrinks one library: reads it, decides, and writes what is left. */
import { mkdirSync } from "node:fs";
import { basename, dirname } from "node:path";
import { DebloatError, OptionError, requireInteger } from "../errors.ts";
import type { Contents } from "./contents.ts";
import type { Edited, EditOptions } from "./elf/edit.ts";
import type { Entry } from "./fatbin/fatbin.ts";
import { readFunctions } from "./fatbin/functions.ts";
import { unusedPages } from "./profile/host.ts";
import { batches, hashFile } from "./jobs.ts";
import { fatbinSections, type FatbinSection, type Library, readLibrary } from "./library.ts";
import {
  type DeviceOptions,
  type Known,
  type Level,
  planDevice,
  type SectionPlan,
} from "./plan.ts";
import type { Pool } from "./pool.ts";
import { type Profile, profiledLibrary, type ProfiledLibrary } from "./profile/profile.ts";
import { countOf, type Ranges } from "./elf/ranges.ts";
import { relocatesText } from "./elf/relocations.ts";
import { writeShrunk, writeSidecar } from "./verify/restore.ts";
import { type Assembly, assemble, strippable } from "./elf/rewrite.ts";
import { parseTarget, type Target } from "./fatbin/select.ts";
import { asDebloatError, isSameFile, mapFile } from "./elf/write.ts";

/** What to take out of a library. */
export interface ShrinkOptions {
  /** GPUs that it is for, such as sm_90; default: those that the profile's runs had, else all. */
  readonly arch?: readonly string[];
  /** What runs used. */
  readonly profile?: Profile;
  /** Default: kernel with a profile or `keep`, else arch. */
  readonly level?: Level;
  /** Mangled names of kernels that stay in any case. */
  readonly keep?: RegExp;
  /** Whether pages of host code that no run touched go; needs a profile and a sidecar. */
  readonly host?: "off" | "pages";
  /** Whether symbol tables and debug information go. */
  readonly strip?: boolean;
  /** Whether relocatable device code goes where an image linked from it is there. */
  readonly dropRel?: boolean;
  /** Level of zstd for every image that stays, 1 to 22. */
  readonly recompress?: number;
  /** File that takes what is removed, for `restore` and for the pager. */
  readonly sidecar?: string;
  /** Called as entries are worked on. */
  readonly onProgress?: (doneBytes: number, allBytes: number) => void;
}

/** Bytes of a library by what they are. */
export interface Sizes {
  readonly file: number;
  readonly fatbin: number;
  readonly relocatable: number;
  /** Host code in .text. */
  readonly text: number;
}

/** What became of a section of fat binaries. */
export interface SectionReport {
  readonly name: string;
  /** In the original's file. */
  readonly offset: number;
  readonly containers: SectionPlan["containers"];
}

/** What became of a library; it holds none of the library's bytes. */
export interface ShrinkReport {
  readonly file: string;
  readonly buildId: string | undefined;
  readonly before: Sizes;
  readonly after: Sizes;
  readonly device: readonly SectionReport[];
  /** Kernels that went out of images that stay, by the offset of the image in the file. */
  readonly droppedKernels: ReadonlyMap<number, readonly string[]>;
  readonly hostPages: Ranges;
  /** Why host pages stay, if they were asked to go. */
  readonly hostKept?: string;
  readonly strippedBytes: number;
  readonly sidecarBytes: number;
}

/** Options after a check, with defaults. */
export interface Chosen extends ShrinkOptions {
  readonly targets: readonly Target[];
  readonly level: Level;
}

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
  const chosen = choose(options, output !== undefined);
  const { data, mode } = mapFile(file);
  requireOtherFiles(file, output, options.sidecar);
  const library = readLibrary(data, file);
  const profiled = profiledOf(library, chosen);
  const hash =
    output !== undefined && options.sidecar !== undefined
      ? pool.run({ kind: "hash" }, data, file)
      : undefined;
  // Whoever fails first is reported; this one is awaited below.
  hash?.catch(() => {});
  const { report, assembly } = await decide(library, chosen, profiled, pool);
  if (output === undefined) return report;
  for (const path of [output, options.sidecar]) if (path !== undefined) makeFolderOf(path);
  const { sidecar } = options;
  if (sidecar === undefined || hash === undefined) {
    writeShrunk(output, assembly, { data, mode });
    return report;
  }
  const source = { data, file, mode, buildId: library.buildId, originalHash: await hash };
  let sidecarBytes = 0;
  writeShrunk(output, assembly, { data, mode }, (shrunkHash) => {
    sidecarBytes = writeSidecar(sidecar, assembly, { ...source, shrunkHash });
  });
  return { ...report, sidecarBytes };
}

function makeFolderOf(path: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true });
  } catch (cause) {
    throw asDebloatError(cause, path);
  }
}

function choose(options: ShrinkOptions, isWritten: boolean): Chosen {
  const { profile, keep, host, sidecar, recompress } = options;
  const level = options.level ?? ((profile ?? keep) ? "kernel" : "arch");
  if (level !== "arch" && profile === undefined && keep === undefined)
    throw new OptionError("level", level, "arch without a profile", "give --profile or --keep.");
  if (host === "pages" && profile === undefined)
    throw new OptionError("host", host, "off without a profile", "give --profile.");
  if (host === "pages" && sidecar === undefined && isWritten)
    throw new OptionError(
      "host",
      host,
      "off without a sidecar",
      "give --sidecar: removed pages come back from it.",
    );
  if (recompress !== undefined) requireInteger("recompress", recompress, 1, 22);
  const ran = (profile?.runs ?? []).flatMap(({ gpu }) => gpu ?? []);
  const targets = [...new Set((options.arch ?? ran).map(parseTarget))].sort((a, b) => a - b);
  return { ...options, level, targets };
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
  const needsDevice = level !== "arch" && library.fatbins.length > 0;
  if (found !== undefined || (!needsDevice && host !== "pages")) return found;
  throw new DebloatError(
    library.file,
    `the profile has no run that loaded it (build ${id})`,
    "trace a run that loads it, or shrink it with --arch alone.",
  );
}

/**
 * Decides about a library and puts the new file together; nothing is written.
 * @throws DebloatError when parts of the library overlap
 */
export async function decide(
  library: Library,
  options: Chosen,
  profiled: ProfiledLibrary | undefined,
  pool: Pool,
): Promise<{ report: ShrinkReport; assembly: Assembly }> {
  const { targets, level, keep } = options;
  const device: DeviceOptions = {
    targets,
    level,
    profiled,
    keep,
    dropRel: options.dropRel === true,
  };
  const byArch = planDevice(library, { ...device, level: "arch" }, () => undefined);
  const known: Known =
    level === "arch" ? () => undefined : await look(library, byArch, options, pool);
  const plans = level === "arch" ? byArch : planDevice(library, device, known);
  const edits = await edit(library, plans, options, pool);
  const [hostPages, hostKept] = hostRuns(library, options, profiled);
  const stripped = options.strip === true ? strippable(library.elf) : [];
  const assembly = assemble(library, {
    ...{ device: plans, hostPages, stripped },
    edited: (entry) => edits.get(entry)?.content,
  });
  const before = sizesOf(library);
  const droppedKernels = new Map<number, readonly string[]>();
  for (const { source, containers } of plans)
    for (const { entry } of containers.flatMap(({ entries }) => entries)) {
      const dropped = edits.get(entry)?.dropped ?? [];
      if (dropped.length > 0) droppedKernels.set(source.section.offset + entry.offset, dropped);
    }
  const report: ShrinkReport = {
    ...{ file: library.file, buildId: library.buildId, before },
    device: plans.map(({ source: { section }, containers }) => {
      return { name: section.name, offset: section.offset, containers };
    }),
    ...{ droppedKernels, hostPages, sidecarBytes: 0 },
    ...(hostKept === undefined ? {} : { hostKept }),
    strippedBytes: stripped.reduce((sum, { bytes }) => sum + bytes, 0),
    after: {
      file: assembly.bytes,
      fatbin: assembly.fatbinBytes.get(fatbinSections.loaded) ?? 0,
      relocatable: assembly.fatbinBytes.get(fatbinSections.relocatable) ?? 0,
      text: before.text - countOf(assembly.pages.map(([at, bytes]) => [at, bytes])),
    },
  };
  return { report, assembly };
}

function sizesOf({ elf, fatbins }: Library): Sizes {
  const bytesOf = (name: string) =>
    fatbins.reduce((sum, { section }) => sum + (section.name === name ? section.bytes : 0), 0);
  return {
    file: elf.bytes.length,
    fatbin: bytesOf(fatbinSections.loaded),
    relocatable: bytesOf(fatbinSections.relocatable),
    text: elf.sections.find(({ name }) => name === ".text")?.bytes ?? 0,
  };
}

function hostRuns(
  library: Library,
  { host }: Chosen,
  profiled: ProfiledLibrary | undefined,
): [Ranges, string?] {
  if (host !== "pages" || profiled === undefined) return [[]];
  if (profiled.pages.length === 0 && profiled.functions.length === 0)
    return [[], "the profile did not watch its host code"];
  if (relocatesText(library.elf)) return [[], "the loader changes its code (DT_TEXTREL)"];
  return [unusedPages(library, readFunctions(library.elf), profiled)];
}

/** Looks into every image that may stay. */
async function look(
  library: Library,
  plans: readonly SectionPlan[],
  options: Chosen,
  pool: Pool,
): Promise<Known> {
  const found = new Map<Entry, Contents>();
  const step = progress(options, plans);
  await Promise.all(
    plans.flatMap(({ source, containers }) => {
      if (source.section.name !== fatbinSections.loaded) return [];
      const entries = containers
        .flatMap((container) => (container.pinned === undefined ? container.entries : []))
        .flatMap(({ entry, action }) => (action === "drop" ? [] : [entry]));
      return batches(entries, bytesOf).map(async (batch) => {
        const job = { kind: "look", section: rangeOf(source), entries: batch } as const;
        const contents = await pool.run(job, library.elf.bytes.data, library.file);
        batch.forEach((entry, index) => found.set(entry, contents[index]!));
        step(batch);
      });
    }),
  );
  return (_, entry) => found.get(entry);
}

/** Takes kernels out of images and packs them anew. */
async function edit(
  library: Library,
  plans: readonly SectionPlan[],
  options: Chosen,
  pool: Pool,
): Promise<Map<Entry, Edited>> {
  const found = new Map<Entry, Edited>();
  const step = progress(options, plans);
  await Promise.all(
    plans.flatMap(({ source, containers }) => {
      const wanted = containers
        .flatMap((container) => (container.pinned === undefined ? container.entries : []))
        .flatMap(({ entry, action, kernels }): { entry: Entry; options: EditOptions }[] =>
          action === "trim" || (action === "keep" && options.recompress !== undefined)
            ? [{ entry, options: { kernels, recompress: options.recompress } }]
            : [],
        );
      return batches(wanted, ({ entry }) => bytesOf(entry)).map(async (batch) => {
        const job = { kind: "edit", section: rangeOf(source), entries: batch } as const;
        const edited = await pool.run(job, library.elf.bytes.data, library.file);
        batch.forEach(({ entry }, index) => found.set(entry, edited[index]!));
        step(batch.map(({ entry }) => entry));
      });
    }),
  );
  return found;
}

function rangeOf({ section }: FatbinSection): { offset: number; bytes: number } {
  return { offset: section.offset, bytes: section.bytes };
}

function bytesOf({ headerBytes, paddedBytes }: Entry): number {
  return headerBytes + paddedBytes;
}

function progress({ onProgress }: Chosen, plans: readonly SectionPlan[]) {
  const all = plans.reduce((sum, { source }) => sum + source.section.bytes, 0);
  let done = 0;
  return (entries: readonly Entry[]) => {
    done += entries.reduce((sum, entry) => sum + bytesOf(entry), 0);
    onProgress?.(done, all);
  };
}

/** The name of a library's sidecar: its build id, by which programs find it, else its own name. */
export function sidecarName(buildId: string | undefined, file: string): string {
  return `${buildId ?? basename(file)}.side`;
}
