/** Traces a command's first run and shrinks what it used; later runs get the shrunk libraries. */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { FlashbunError } from "../errors.ts";
import { requireOptions, requireText } from "../require.ts";
import { writeAtomically } from "./files.ts";
import { type Ended, requireCommand } from "./process/spawn.ts";
import type { HostMode, Profile } from "./profile/profile.ts";
import { formatProfile, parseProfile } from "./profile/text.ts";
import { traceCommand } from "./profile/trace.ts";
import {
  cacheFolder,
  requireBuild,
  type RunOptions,
  runShrunk,
  type ShrunkRun,
  shrunkLibraries,
} from "./run.ts";
import { choose, cutOptions } from "./shrink/options.ts";

/** How to run and how to shrink: as RunOptions, without the profile, which is traced. */
export interface AutoOptions extends Omit<RunOptions, "profile"> {
  /** Called with a sentence as the first run ends and its libraries are shrunk. */
  readonly onTraced?: (sentence: string) => void;
}

/** What came of a command: of its first run, or of one with shrunk libraries. */
export type AutoRun =
  | { readonly ended: Ended; readonly traced: Profile }
  | (ShrunkRun & { readonly traced?: undefined });

const autoOptions = ["onTraced", "cache", "onShrink", "onProblem", ...cutOptions];

/**
 * Runs a command. The first time, or when a library has changed since, it is traced, and if it ends
 * well what it loaded is shrunk into the cache; after that it runs with the shrunk libraries.
 * @throws OptionError when the command cannot be started or options do not fit each other
 */
export async function autoRun(
  command: readonly string[],
  options: AutoOptions = {},
): Promise<AutoRun> {
  requireOptions("options", options, autoOptions);
  const { onTraced, ...rest } = options;
  const { cache = cacheFolder(), onProblem } = rest;
  requireText("cache", cache);
  requireCommand(command);
  const path = profilePath(command, cache, rest);
  const known = readKnown(path);
  if (known !== undefined) return await runShrunk(command, { ...rest, profile: known });
  // Options are refused before the run, not after it.
  choose({ ...withoutCallbacks(rest), profile: noProfile, sidecar: "" }, true);
  const host: HostMode = rest.host === "pages" ? "functions" : "pages";
  const { profile, ended } = await traceCommand(command, { host, onProblem });
  if (!endsWell.has(ended.exitCode)) {
    onTraced?.(`the run ended with ${ended.exitCode}: the next is traced again`);
    return { ended, traced: profile };
  }
  await shrunkLibraries({ ...rest, profile });
  mkdirSync(dirname(path), { recursive: true });
  writeAtomically(path, 0o644, (writer) => writer.write(Buffer.from(formatProfile(profile))));
  onTraced?.(`traced into ${path}: the next run uses shrunk libraries`);
  return { ended, traced: profile };
}

/** Of its own accord, or asked to by a signal, as servers are: 128 and HUP, INT or TERM. */
const endsWell = new Set([0, 129, 130, 143]);

const noProfile: Profile = {
  version: 1,
  runs: [],
  libraries: {},
  unresolved: { kernels: [], cubins: [] },
};

function withoutCallbacks({ onShrink: _, onProblem: __, cache: ___, ...rest }: AutoOptions) {
  return rest;
}

/** A profile for each command, folder that it runs in, and way to trace it. */
function profilePath(command: readonly string[], cache: string, { host }: AutoOptions): string {
  const facts = JSON.stringify([command, process.cwd(), host ?? "off"]);
  const key = new Bun.CryptoHasher("sha256").update(facts).digest("hex").slice(0, 32);
  return resolve(join(cache, "profiles", `${key}.json`));
}

/** The profile of an earlier run, if all that it loaded is still what it was. */
function readKnown(path: string): Profile | undefined {
  if (!existsSync(path)) return undefined;
  try {
    const profile = parseProfile(readFileSync(path, "utf8"), path);
    for (const [id, library] of Object.entries(profile.libraries)) requireBuild(library.path, id);
    return profile;
  } catch (cause) {
    if (cause instanceof FlashbunError) return undefined;
    throw cause;
  }
}
