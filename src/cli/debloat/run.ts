import { basename } from "node:path";
import { runShrunk, type ShrunkRun } from "../../debloat/run.ts";
import { counted } from "../../shown.ts";
import { megabytes, share } from "../table.ts";
import { readProfile } from "./trace.ts";

/** Options of `flashbun debloat run`, as the command line parsed them. */
export interface RunArguments {
  profile: string;
  arch?: string[];
  level?: "arch" | "cubin" | "kernel";
  host: "off" | "pages";
  strip?: boolean;
  dropRel?: boolean;
  keep?: RegExp;
  cache?: string;
  quiet?: boolean;
}

/**
 * Runs a command with shrunk libraries.
 * @returns the command's exit code
 * @throws FlashbunError
 */
export async function debloatRun(command: string[], options: RunArguments): Promise<number> {
  const { profile: path, quiet, ...rest } = options;
  const say = (text: string) => void (quiet || process.stderr.write(`debloat: ${text}\n`));
  const run = await runShrunk(command, {
    ...rest,
    profile: readProfile(path),
    onShrink: (library) => say(`shrinking ${basename(library)}`),
    onProblem: say,
  });
  sayRun(run, say);
  return run.ended.exitCode;
}

/** Says what came of a run. */
export function sayRun(run: ShrunkRun, say: (text: string) => void): void {
  const { libraries, bytesBefore, bytesAfter, pagesBack, ended } = run;
  const sizes = `${megabytes(bytesBefore)} -> ${megabytes(bytesAfter)}`;
  const saved = share(bytesAfter - bytesBefore, bytesBefore);
  const count = counted(libraries, "shrunk library", "shrunk libraries");
  say(`${count}, ${sizes}, ${saved}; ${ended.seconds.toFixed(2)} s`);
  for (const [library, pages] of pagesBack)
    say(
      `${counted(pages, "removed page")} of ${basename(library)} needed after all, and back: ` +
        "trace this run too, with --append",
    );
}
