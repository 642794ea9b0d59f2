/** Decides what goes out of a library, and puts what is left together. */
import { readFunctions } from "../elf/functions.ts";
import type { Ranges } from "../elf/ranges.ts";
import { relocatesText } from "../elf/relocations.ts";
import type { Contents } from "../fatbin/contents.ts";
import type { Edited, EditOptions } from "../fatbin/edit.ts";
import type { Entry } from "../fatbin/fatbin.ts";
import { fatbinSections, type Library } from "../library.ts";
import type { DeviceSection } from "../loose.ts";
import { batches } from "../pool/jobs.ts";
import type { Pool } from "../pool/pool.ts";
import { unusedPages } from "../profile/host.ts";
import type { ProfiledLibrary } from "../profile/profile.ts";
import type { Chosen } from "./options.ts";
import { pagesToGo, planLoose } from "./loose.ts";
import {
  type DeviceOptions,
  type EntryPlan,
  type Known,
  notLookedInto,
  planDevice,
  type SectionPlan,
} from "./plan.ts";
import { type Assembly, assemble, strippable } from "./rewrite.ts";

/** Bytes of a library by what they are. */
export interface Sizes {
  readonly file: number;
  readonly fatbin: number;
  readonly relocatable: number;
  /** Device code outside fat binaries. */
  readonly loose: number;
  /** Host code in .text. */
  readonly text: number;
}

/** What became of a section with device code. */
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
  const unknown: Known = () => undefined;
  const wanted = [...imagesOf(byArch), ...imagesOf(planLoose(library, device, unknown))];
  const known = level === "arch" ? unknown : await look(library, wanted, options, pool);
  const plans = level === "arch" ? byArch : planDevice(library, device, known);
  const loose = planLoose(library, device, known);
  const edits = await edit(library, plans, options, pool);
  const [hostPages, hostKept] = hostRuns(library, options, profiled);
  const stripped = options.strip === true ? strippable(library.elf) : [];
  const assembly = assemble(library, {
    device: plans,
    loose: loose.map((plan) => pagesToGo(plan, level, library.pageBytes)),
    hostPages,
    stripped,
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
    file: library.file,
    buildId: library.buildId,
    before,
    device: [...plans, ...loose].map(({ source: { section }, containers }) => {
      return { name: section.name, offset: section.offset, containers };
    }),
    droppedKernels,
    hostPages,
    sidecarBytes: 0,
    ...(hostKept === undefined ? {} : { hostKept }),
    strippedBytes: stripped.reduce((sum, { bytes }) => sum + bytes, 0),
    after: {
      file: assembly.bytes,
      fatbin: assembly.fatbinBytes.get(fatbinSections.loaded) ?? 0,
      relocatable: assembly.fatbinBytes.get(fatbinSections.relocatable) ?? 0,
      loose: before.loose - sumOf(assembly.pages.filter(({ isHost }) => !isHost)),
      text: before.text - sumOf(assembly.pages.filter(({ isHost }) => isHost)),
    },
  };
  return { report, assembly };
}

function sumOf(items: readonly { readonly bytes: number }[]): number {
  return items.reduce((sum, { bytes }) => sum + bytes, 0);
}

function sizesOf({ elf, fatbins, loose }: Library): Sizes {
  const bytesOf = (name: string) =>
    fatbins.reduce((sum, { section }) => sum + (section.name === name ? section.bytes : 0), 0);
  return {
    file: elf.bytes.length,
    fatbin: bytesOf(fatbinSections.loaded),
    relocatable: bytesOf(fatbinSections.relocatable),
    loose: loose.reduce((sum, { containers }) => sum + sumOf(containers), 0),
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

interface Images {
  readonly source: DeviceSection;
  readonly entries: readonly Entry[];
}

/** The images about which what they hold decides. */
function imagesOf(plans: readonly SectionPlan<DeviceSection>[]): Images[] {
  return plans.flatMap(({ source, containers }) => {
    if (source.section.name === fatbinSections.relocatable) return [];
    const isOpen = ({ action, reason }: EntryPlan) =>
      "isWritable" in source ? reason === notLookedInto : action !== "drop";
    const entries = containers
      .filter(({ pinned }) => pinned === undefined)
      .flatMap((container) => container.entries.filter(isOpen))
      .map(({ entry }) => entry);
    return [{ source, entries }];
  });
}

/** Looks into images. */
async function look(
  library: Library,
  images: readonly Images[],
  options: Chosen,
  pool: Pool,
): Promise<Known> {
  const found = new Map<Entry, Contents>();
  const step = progress(options, images);
  await Promise.all(
    images.flatMap(({ source, entries }) => {
      return batches(entries, bytesOf).map(async (batch) => {
        const job = { kind: "look", section: rangeOf(source), entries: batch } as const;
        const contents = await pool.run(job, library.elf.bytes.data, library.file);
        batch.forEach((entry, index) => found.set(entry, contents[index]));
        step(batch);
      });
    }),
  );
  return (_, entry) => found.get(entry);
}

/** Takes kernels out of images and compresses them again. */
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
        batch.forEach(({ entry }, index) => found.set(entry, edited[index]));
        step(batch.map(({ entry }) => entry));
      });
    }),
  );
  return found;
}

function rangeOf({ section }: DeviceSection): { offset: number; bytes: number } {
  return { offset: section.offset, bytes: section.bytes };
}

function bytesOf({ headerBytes, paddedBytes }: Entry): number {
  return headerBytes + paddedBytes;
}

function progress({ onProgress }: Chosen, plans: readonly { source: DeviceSection }[]) {
  const all = plans.reduce((sum, { source }) => sum + source.section.bytes, 0);
  let done = 0;
  return (entries: readonly Entry[]) => {
    done += entries.reduce((sum, entry) => sum + bytesOf(entry), 0);
    onProgress?.(done, all);
  };
}
