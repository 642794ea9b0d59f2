/** Which images of a container a GPU's driver may take. */
import { OptionError } from "../../errors.ts";
import { requireText } from "../../require.ts";
import type { Entry } from "./fatbin.ts";

/** A GPU architecture: 90 for sm_90. */
export type Target = number;

/**
 * Reads the name of a GPU's architecture. Suffixes say what code is made for, not what a GPU is:
 * sm_90a names the same GPUs as sm_90.
 * @throws OptionError
 */
export function parseTarget(text: string): Target {
  requireText("arch", text);
  const match = /^(?:sm_|compute_)?(\d{2,3})[af]?$/.exec(text.trim());
  if (match !== null) return Number(match[1]);
  throw new OptionError(
    "arch",
    text,
    "GPU architectures such as sm_90",
    "name one, or sm_80,sm_90.",
  );
}

/** Whether an entry's kind or flags are unknown. */
export function isUnknown({ kind, unknownFlags }: Entry): boolean {
  return kind === "unknown" || unknownFlags !== 0;
}

/** Whether a cubin runs on a GPU: the same major version, and not made for a later minor one. */
export function runsOn({ arch, variant }: Entry, target: Target): boolean {
  if (variant === "a") return arch === target;
  return Math.floor(arch / 10) === Math.floor(target / 10) && arch <= target;
}

/** Whether the driver can compile an entry for a GPU. */
function compilesFor({ arch, variant }: Entry, target: Target): boolean {
  if (variant === "a") return arch === target;
  if (variant === "f") return Math.floor(arch / 10) === Math.floor(target / 10) && arch <= target;
  return arch <= target;
}

/**
 * The entries of a container that a GPU needs: the cubins of the nearest architecture, and those of
 * a family, as which of the two comes first is the driver's affair; where no cubin runs, the
 * nearest PTX and link-time code. Unknown entries are always needed.
 */
export function neededBy(entries: readonly Entry[], target: Target): Set<Entry> {
  const needed = new Set(entries.filter(isUnknown));
  const cubins = entries.filter((entry) => entry.kind === "cubin" && runsOn(entry, target));
  const nearest = Math.max(...cubins.map(({ arch }) => arch));
  for (const entry of cubins)
    if (entry.arch === nearest || entry.variant === "f") needed.add(entry);
  if (cubins.length > 0) return needed;
  for (const kind of ["ptx", "lto"] as const) {
    const usable = entries.filter((entry) => entry.kind === kind && compilesFor(entry, target));
    const best = Math.max(...usable.map(({ arch }) => arch));
    for (const entry of usable) if (entry.arch === best) needed.add(entry);
  }
  return needed;
}

/** The entries that any of the GPUs may take; all of them when no GPU is named. */
export function neededByAny(entries: readonly Entry[], targets: readonly Target[]): Set<Entry> {
  if (targets.length === 0) return new Set(entries);
  return new Set(targets.flatMap((target) => [...neededBy(entries, target)]));
}
