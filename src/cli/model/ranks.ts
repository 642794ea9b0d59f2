import { existsSync } from "node:fs";
import { hostname } from "node:os";
import { freePort } from "../free-port.ts";
import { CommError } from "../../errors.ts";
import { addressVariable, ranksOf } from "../../comm/ranks.ts";
import { onSignals } from "./signals.ts";

/** Milliseconds between two looks at whether who started this rank is still there. */
const parentMs = 1000;
/** The process that started the ranks, which is not the parent of those that mpirun started. */
const parentVariable = "FLASHBUN_PARENT";

/** Whether no launcher started this process as one of several: Slurm's shells are tasks, too. */
export function isAlone(ranks = ranksOf()): boolean {
  return ranks === undefined || (ranks.ranks === 1 && ranks.launcher === "Slurm");
}

/**
 * Starts a command as so many ranks on this machine and waits for all: by mpirun on CPUs, by itself
 * on GPUs. One that fails ends the others. Returns the exit code. Errors: CommError.
 */
export async function startRanks(
  command: readonly string[],
  count: number,
  device: string,
): Promise<number> {
  return device === "cpu" ? await byMpirun(command, count) : await byItself(command, count);
}

async function byMpirun(command: readonly string[], count: number): Promise<number> {
  const mpirun = Bun.which("mpirun");
  if (mpirun === null) {
    const fix = "install openmpi-bin (Debian, Ubuntu) or MPICH.";
    throw new CommError(`ranks of CPUs are started by mpirun, which is not there. Fix: ${fix}`);
  }
  const version = Bun.spawnSync([mpirun, "--version"]).stdout.toString();
  const isRoot = process.getuid?.() === 0;
  const own = ["--oversubscribe", ...(isRoot ? ["--allow-run-as-root"] : [])];
  const options = version.includes("Open MPI") ? own : [];
  const child = Bun.spawn([mpirun, "-n", String(count), ...options, ...command], {
    stdio: ["inherit", "inherit", "inherit"],
    env: { ...process.env, [parentVariable]: `${hostname()}:${process.pid}` },
  });
  using _ = onSignals(() => child.kill("SIGTERM"));
  return await child.exited;
}

async function byItself(command: readonly string[], count: number): Promise<number> {
  const address = process.env[addressVariable] ?? `127.0.0.1:${freePort()}`;
  const children = Array.from({ length: count }, (_, rank) =>
    Bun.spawn([...command], {
      stdio: rank === 0 ? ["inherit", "inherit", "inherit"] : ["ignore", "ignore", "inherit"],
      env: {
        ...process.env,
        FLASHBUN_RANK: String(rank),
        FLASHBUN_RANKS: String(count),
        [addressVariable]: address,
        [parentVariable]: `${hostname()}:${process.pid}`,
      },
    }),
  );
  // The others end when rank 0 does.
  using _ = onSignals(() => children[0].kill("SIGTERM"));
  let exitCode = 0;
  await Promise.all(
    children.map(async (child, rank) => {
      const code = await child.exited;
      if (code === 0 || exitCode !== 0) return;
      exitCode = code;
      const how = child.signalCode ?? `code ${code}`;
      process.stderr.write(`flashbun: rank ${rank} ended with ${how}, and the others with it\n`);
      for (const other of children) other.kill("SIGKILL");
    }),
  );
  return exitCode;
}

/** Ends this process when the one that started it, or mpirun between them, is gone. */
export function endWithParent(): void {
  const parent = process.ppid;
  const [host, first] = process.env[parentVariable]?.split(":") ?? [];
  // mpirun may have put this rank on another machine, where that number is nobody's.
  const watched = host === hostname() ? first : parent;
  const timer = setInterval(() => {
    if (process.ppid !== parent || !existsSync(`/proc/${watched}`)) process.exit(1);
  }, parentMs);
  timer.unref();
}
