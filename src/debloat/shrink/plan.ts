/** Decides what of a library's device code stays: pure, with a reason for every item. */
import type { Contents } from "../fatbin/contents.ts";
import { type Container, type Entry } from "../fatbin/fatbin.ts";
import { isUnknown, neededByAny, runsOn, type Target } from "../fatbin/select.ts";
import { fatbinSections, type FatbinSection, type Library } from "../library.ts";
import type { DeviceSection } from "../loose.ts";
import type { ProfiledLibrary } from "../profile/profile.ts";

/** How fine device code is removed: whole images by architecture, by use, or kernels inside. */
export type Level = "arch" | "cubin" | "kernel";

/** What a plan goes by. */
export interface DeviceOptions {
  /** GPUs that the library is for; none: all that it knows. */
  readonly targets: readonly Target[];
  readonly level: Level;
  /** What runs used; without it nothing counts as used but what `keep` matches. */
  readonly profiled?: ProfiledLibrary;
  /** Mangled names of kernels that stay in any case. */
  readonly keep?: RegExp;
  /** Whether images that were linked already go. */
  readonly dropRel: boolean;
}

/** What becomes of an entry: `trim` takes kernels out of it. */
export interface EntryPlan {
  readonly entry: Entry;
  readonly action: "keep" | "drop" | "trim";
  readonly reason: string;
  /** Of `trim`: the kernels that were asked to stay; those they need stay with them. */
  readonly kernels?: readonly string[];
}

/** What becomes of a container. */
export interface ContainerPlan {
  readonly container: Container;
  /** Why it stays where and as it is. */
  readonly pinned?: string;
  readonly entries: readonly EntryPlan[];
}

/** What becomes of a section with device code: of fat binaries, or of what lies outside them. */
export interface SectionPlan<Source extends DeviceSection = FatbinSection> {
  readonly source: Source;
  readonly containers: readonly ContainerPlan[];
}

/** What is known of the images of entries that may stay; none is asked for at level `arch`. */
export type Known = (source: DeviceSection, entry: Entry) => Contents | undefined;

/** Why an image stays of which nothing is known yet. */
export const notLookedInto = "it was not looked into";

/** The plan for all fat binaries of a library. */
export function planDevice(library: Library, options: DeviceOptions, known: Known): SectionPlan[] {
  const isUsed = usage(library, options, known);
  return library.fatbins.map((source) => ({
    source,
    containers: source.containers.map((container): ContainerPlan => {
      const pinned = source.pins.get(container.offset);
      const keepAll = (reason: string) => {
        const entries = container.entries.map((entry) => keep(entry, reason));
        return { container, pinned: reason, entries };
      };
      if (pinned !== undefined) return keepAll(`pinned: ${pinned}`);
      const isRelocatable = source.section.name === fatbinSections.relocatable;
      const why = isRelocatable && options.dropRel ? linkedElsewhere(library, options) : undefined;
      const needed = neededByAny(container.entries, options.targets);
      const entries = container.entries.map((entry): EntryPlan => {
        if (isUnknown(entry)) return keep(entry, unknownBecause(entry));
        if (why !== undefined && why.isLinked) return drop(entry, why.reason);
        if (!needed.has(entry)) return drop(entry, `no ${namesOf(options.targets)} takes it`);
        if (why !== undefined) return keep(entry, why.reason);
        if (options.level === "arch" || isRelocatable) return keep(entry, takenBy(options));
        return planImage(entry, known(source, entry), isUsed, options);
      });
      return { container, entries };
    }),
  }));
}

/** Plans that an entry stays. */
export function keep(entry: Entry, reason: string): EntryPlan {
  return { entry, action: "keep", reason };
}

/** Plans that an entry goes. */
export function drop(entry: Entry, reason: string): EntryPlan {
  return { entry, action: "drop", reason };
}

/** Why an entry that is not known stays. */
export function unknownBecause({ kindCode, unknownFlags }: Entry): string {
  return unknownFlags === 0
    ? `kind ${kindCode} is not known`
    : `flags 0x${unknownFlags.toString(16)} are not known`;
}

/** GPUs in a sentence. */
export function namesOf(targets: readonly Target[]): string {
  return targets.map((target) => `sm_${target}`).join(" or ");
}

/** Why an entry stays that a GPU takes. */
export function takenBy({ targets }: DeviceOptions): string {
  return targets.length === 0 ? "every architecture stays" : `${namesOf(targets)} takes it`;
}

/** Whether linked images make the relocatable ones useless: they do for every GPU that is meant. */
function linkedElsewhere(
  library: Library,
  { targets }: DeviceOptions,
): { isLinked: boolean; reason: string } {
  const cubinsOf = (name: string) =>
    library.fatbins
      .filter(({ section }) => section.name === name)
      .flatMap(({ containers }) => containers.flatMap(({ entries }) => entries))
      .filter(({ kind }) => kind === "cubin");
  const linked = cubinsOf(fatbinSections.loaded);
  const meant =
    targets.length > 0
      ? targets
      : [...new Set(cubinsOf(fatbinSections.relocatable).map(({ arch }) => arch))];
  const missing = meant.filter((target) => !linked.some((entry) => runsOn(entry, target)));
  if (missing.length === 0) return { isLinked: true, reason: "an image linked from it is there" };
  return { isLinked: false, reason: `no linked image is there for ${namesOf(missing)}` };
}

/** Decides about one image that a GPU takes. */
export function planImage(
  entry: Entry,
  contents: Contents | undefined,
  isUsed: Usage,
  { level }: DeviceOptions,
): EntryPlan {
  if (contents === undefined) return keep(entry, notLookedInto);
  if (contents.unreadable !== undefined) return keep(entry, `unreadable: ${contents.unreadable}`);
  const { kernels, globals } = contents;
  const isLoaded = isUsed.image(contents);
  const used = kernels.map(({ name }) => name).filter((name) => isUsed.name(name, isLoaded));
  const usedGlobals = globals.filter((name) => isUsed.name(name, isLoaded)).length;
  if (kernels.length === 0) return keep(entry, "it holds no kernels");
  if (used.length === 0 && usedGlobals === 0)
    return isLoaded
      ? keep(entry, "a run loaded it")
      : drop(entry, `none of its ${kernels.length} kernels is used`);
  const reason =
    `${used.length} of its ${kernels.length} kernels ` + `and ${usedGlobals} variables are used`;
  if (level === "cubin" || used.length === kernels.length) return keep(entry, reason);
  if (contents.whole !== undefined) return keep(entry, `${reason}; whole, as ${contents.whole}`);
  return { entry, action: "trim", reason, kernels: used };
}

/** Whether a kernel is to stay by its name; search, unlike test, keeps no state between names. */
export function matches(pattern: RegExp | undefined, name: string): boolean {
  return pattern !== undefined && name.search(pattern) >= 0;
}

/** What counts as used. */
export interface Usage {
  /** Whether a run loaded exactly this image. */
  image(contents: Contents): boolean;
  /** Whether a kernel or variable of an image counts as used. */
  name(name: string, isLoaded: boolean): boolean;
}

/**
 * What counts as used of a library. One name may occur in many images: where a run loaded some of
 * them, it is used in those alone.
 */
export function usage(library: Library, options: DeviceOptions, known: Known): Usage {
  const { profiled, keep } = options;
  const images = new Set(profiled?.cubins.map(({ bytes, crc32 }) => `${bytes} ${crc32}`));
  const names = new Set([...(profiled?.kernels ?? []), ...(profiled?.globals ?? [])]);
  const image = ({ bytes, crc32 }: Contents) => images.has(`${bytes} ${crc32}`);
  const placed = new Set<string>();
  if (images.size > 0)
    for (const source of [...library.fatbins, ...library.loose])
      for (const { entries } of source.containers)
        for (const entry of entries) {
          const contents = known(source, entry);
          if (contents === undefined || !image(contents)) continue;
          for (const { name } of contents.kernels) if (names.has(name)) placed.add(name);
          for (const name of contents.globals) if (names.has(name)) placed.add(name);
        }
  return {
    image,
    name: (name, isLoaded) =>
      matches(keep, name) || (names.has(name) && (isLoaded || !placed.has(name))),
  };
}
