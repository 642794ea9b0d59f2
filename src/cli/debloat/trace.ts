import { existsSync, readFileSync } from "node:fs";
import { mergeProfiles, type HostMode, type Profile } from "../../debloat/profile/profile.ts";
import { formatProfile, parseProfile } from "../../debloat/profile/text.ts";
import { traceCommand, type Traced } from "../../debloat/profile/trace.ts";
import { OptionError } from "../../errors.ts";
import { counted } from "../../shown.ts";
import { requireWritable, writeWhole } from "../outputs.ts";
import { share } from "../table.ts";

/** Options of `flashbun debloat trace`, as the command line parsed them. */
export interface TraceArguments {
  output: string;
  host: HostMode;
  append?: boolean;
  cupti?: string;
  quiet?: boolean;
}

/**
 * Runs a command with the tracer in it and writes what it used.
 * @returns the command's exit code
 * @throws FlashbunError
 */
export async function debloatTrace(command: string[], options: TraceArguments): Promise<number> {
  const { output, host, append, cupti, quiet } = options;
  requireWritable({ "--output": output });
  if (cupti !== undefined && !existsSync(cupti))
    throw new OptionError("--cupti", cupti, "the path of libcupti", "give a file that is there.");
  // A profile that cannot be added to is refused before the run, not after.
  const before = append && existsSync(output) ? [readProfile(output, "--output")] : [];
  const say = (text: string) => void (quiet || process.stderr.write(`debloat: ${text}\n`));
  const traced = await traceCommand(command, { host, cupti, onProblem: say });
  await writeWhole(output, formatProfile(mergeProfiles(...before, traced.profile)));
  say(summaryOf(traced.profile));
  const { ended, processes, tracerSeconds, tracerParts, functions } = traced;
  const milliseconds = (1000 * tracerSeconds).toFixed(1);
  const entered = functions > 0 ? `, ${counted(functions, "function")} entered` : "";
  say(
    `${counted(processes, "process", "processes")} in ${ended.seconds.toFixed(2)} s` +
      `${entered}; the tracer took ${milliseconds} ms (${share(tracerSeconds, ended.seconds)})` +
      partsOf(tracerParts),
  );
  say(`profile in ${output}`);
  return ended.exitCode;
}

/** What took the tracer longest, where it is worth a word. */
function partsOf({ opening, images, ending }: Traced["tracerParts"]): string {
  const parts = [
    ["opening CUPTI", opening],
    ["sums of images", images],
    ["ends", ending],
  ] as const;
  const shown = parts.filter(([, seconds]) => seconds >= 0.001);
  const texts = shown.map(([name, seconds]) => `${name} ${(1000 * seconds).toFixed(0)} ms`);
  return texts.length === 0 ? "" : `: ${texts.join(", ")}`;
}

function summaryOf({ libraries, unresolved }: Profile): string {
  const all = Object.values(libraries);
  const kernels = all.reduce((sum, library) => sum + library.kernels.length, 0);
  const cubins = all.reduce((sum, library) => sum + library.cubins.length, 0);
  const elsewhere = unresolved.kernels.length;
  const rest = elsewhere > 0 ? `, ${counted(elsewhere, "more kernel")} that no library holds` : "";
  const held = `${counted(kernels, "kernel")} in ${counted(cubins, "image")}`;
  return `${counted(all.length, "library", "libraries")}, ${held}${rest}`;
}

/**
 * Reads a profile from a file.
 * @param given how it was named
 * @throws InputError, OptionError
 */
export function readProfile(path: string, given = "--profile"): Profile {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    const fix = "give a file that `flashbun debloat trace` wrote.";
    throw new OptionError(given, path, "a file that can be read", fix);
  }
  return parseProfile(text, path);
}
