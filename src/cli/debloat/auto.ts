import { basename } from "node:path";
import { autoRun } from "../../debloat/auto.ts";
import type { RunArguments } from "./run.ts";
import { sayRun } from "./run.ts";

/** Options of `flashbun debloat auto`, as the command line parsed them. */
export type AutoArguments = Omit<RunArguments, "profile">;

/**
 * Runs a command, traced the first time and with shrunk libraries from then on.
 * @returns the command's exit code
 * @throws FlashbunError
 */
export async function debloatAuto(command: string[], options: AutoArguments): Promise<number> {
  const { quiet, ...rest } = options;
  const say = (text: string) => void (quiet || process.stderr.write(`debloat: ${text}\n`));
  const run = await autoRun(command, {
    ...rest,
    onShrink: (library) => say(`shrinking ${basename(library)}`),
    onProblem: say,
    onTraced: say,
  });
  if (run.traced === undefined) sayRun(run, say);
  return run.ended.exitCode;
}
