/** Programs of several ranks under a real mpirun. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { findMpi, type MpiName } from "../../scripts/mpi.ts";
import { root } from "./sources.ts";

/** What a program of ranks left. */
export interface RanksRun {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program of the tests as so many ranks, one thread each, killed after `seconds`. */
export async function runRanks(
  ranks: number,
  program: string,
  args: readonly string[] = [],
  options: { seconds?: number; library?: MpiName; environment?: Record<string, string> } = {},
): Promise<RanksRun> {
  const { seconds = 100, library = "Open MPI", environment = {} } = options;
  const mpi = await findMpi(library);
  const command = [process.execPath, join(root, "test", program), ...args];
  const child = Bun.spawn([...mpi.command(ranks), ...command], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, FLASHBUN_THREADS: "1", ...mpi.environment, ...environment },
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), 1000 * seconds);
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]).finally(() => clearTimeout(timer));
  return { code, stdout, stderr };
}

/** Of the processes that a run named, those that still run; whom nobody has buried does not. */
export function orphansOf(stderr: string): string[] {
  return [...stderr.matchAll(/^pid (\d+)$/gm)]
    .map(([, pid]) => pid)
    .filter((pid) => {
      const path = `/proc/${pid}/stat`;
      return existsSync(path) && !/\) [ZX] /.test(readFileSync(path, "utf8"));
    });
}
