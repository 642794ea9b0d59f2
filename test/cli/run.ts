import { join } from "node:path";
import { root } from "../support/sources.ts";

/** The command line's entry. */
export const entry = join(root, "src/cli/main.ts");

/** What a run of the command line said. */
export interface Said {
  code: number;
  out: string;
  err: string;
}

/** Runs the command line to its end. */
export function flashbun(...args: string[]): Promise<Said> {
  return fed("", ...args);
}

/** The same with something on its standard input. */
export async function fed(input: string, ...args: string[]): Promise<Said> {
  const child = Bun.spawn([process.execPath, entry, ...args], {
    stdin: input === "" ? "ignore" : new TextEncoder().encode(input),
    stdout: "pipe",
    stderr: "pipe",
    // Which GPU tests run on may have been set by this process.
    env: process.env,
  });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, out, err };
}
