/** What a library is shrunk by. */
import { OptionError } from "../../errors.ts";
import { requireInteger, requireText } from "../../require.ts";
import { parseTarget, type Target } from "../fatbin/select.ts";
import type { Profile } from "../profile/profile.ts";
import { requireProfile } from "../profile/read.ts";
import type { Level } from "./plan.ts";

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

/** Those of them that say what is cut, which whoever shrinks several libraries takes too. */
export const cutOptions = [
  "arch",
  "level",
  "keep",
  "host",
  "strip",
  "dropRel",
  "recompress",
] as const;

/** All of them. */
export const shrinkOptions = [...cutOptions, "profile", "sidecar", "onProgress"] as const;

/** Options after a check, with defaults. */
export interface Chosen extends ShrinkOptions {
  readonly targets: readonly Target[];
  readonly level: Level;
}

function requireOneOf(option: string, value: unknown, allowed: readonly string[]): void {
  if (value === undefined || allowed.includes(value as string)) return;
  throw new OptionError(
    option,
    value,
    `one of ${allowed.join(", ")}`,
    "leave it out for the default.",
  );
}

/**
 * The options, all of which have names that are known, after a check.
 * @param isWritten whether a file is written: removed pages then need a sidecar to come back from
 * @throws OptionError
 */
export function choose(options: ShrinkOptions, isWritten: boolean): Chosen {
  const { arch, profile, keep, host, sidecar, recompress } = options;
  if (arch !== undefined && !Array.isArray(arch))
    throw new OptionError("arch", arch, "a list such as [sm_90]", "name the GPUs.");
  if (profile !== undefined) requireProfile("profile", profile);
  if (keep !== undefined && !(keep instanceof RegExp))
    throw new OptionError("keep", keep, "a RegExp", "match mangled names of kernels.");
  if (sidecar !== undefined) requireText("sidecar", sidecar);
  for (const flag of ["strip", "dropRel"] as const) {
    const value: unknown = options[flag];
    if (value === undefined || typeof value === "boolean") continue;
    throw new OptionError(flag, value, "true or false", "leave it out for false.");
  }
  requireOneOf("host", host, ["off", "pages"]);
  requireOneOf("level", options.level, ["arch", "cubin", "kernel"]);
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
  const targets = [...new Set((arch ?? ran).map(parseTarget))].sort((a, b) => a - b);
  return { ...options, level, targets };
}
