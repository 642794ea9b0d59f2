import { CommError, OptionError } from "../errors.ts";
import { describe } from "../describe.ts";

/** Who this process is among those that a launcher started. */
export interface Ranks {
  readonly rank: number;
  readonly ranks: number;
  /** Among those of this machine: the number of its GPU. */
  readonly localRank: number;
  /** What started them, as in "torchrun". */
  readonly launcher: string;
  /** host:port where rank 0 waits for the others; undefined: MPI tells them. */
  readonly address: string | undefined;
}

type Environment = Readonly<Record<string, string | undefined>>;

interface Launcher {
  readonly name: string;
  readonly rank: string;
  readonly ranks: string;
  readonly localRank: string;
  address?(environment: Environment): string | undefined;
  /** Whether its variables are not those of the launcher around it. */
  isOwn?(environment: Environment): boolean;
}

/** The variable that says where rank 0 waits, under any launcher. */
export const addressVariable = "FLASHBUN_COMM";

const launchers: readonly Launcher[] = [
  {
    name: "flashbun",
    rank: "FLASHBUN_RANK",
    ranks: "FLASHBUN_RANKS",
    localRank: "FLASHBUN_RANK",
  },
  {
    name: "mpirun",
    rank: "OMPI_COMM_WORLD_RANK",
    ranks: "OMPI_COMM_WORLD_SIZE",
    localRank: "OMPI_COMM_WORLD_LOCAL_RANK",
  },
  {
    name: "mpirun",
    rank: "PMI_RANK",
    ranks: "PMI_SIZE",
    localRank: "MPI_LOCALRANKID",
    // srun --mpi=pmi2 says the same as Slurm's own, which know the node, too.
    isOwn: ({ PMI_RANK, PMI_SIZE, SLURM_PROCID, SLURM_STEP_NUM_TASKS }) =>
      PMI_RANK !== SLURM_PROCID || PMI_SIZE !== SLURM_STEP_NUM_TASKS,
  },
  {
    name: "torchrun",
    rank: "RANK",
    ranks: "WORLD_SIZE",
    localRank: "LOCAL_RANK",
    // Its own store has the port itself.
    address: ({ MASTER_ADDR, MASTER_PORT }) =>
      MASTER_ADDR && MASTER_PORT ? `${MASTER_ADDR}:${Number(MASTER_PORT) + 1}` : undefined,
  },
  {
    name: "Slurm",
    rank: "SLURM_PROCID",
    ranks: "SLURM_STEP_NUM_TASKS",
    localRank: "SLURM_LOCALID",
    address: ({ SLURM_STEP_NODELIST: nodes, SLURM_JOB_ID: job }) =>
      nodes && job ? `${firstHost(nodes)}:${20_000 + (Number(job) % 20_000)}` : undefined,
  },
];

/**
 * What the environment says of this process's rank; undefined for one that no launcher started.
 * Errors: CommError for numbers that make no sense, OptionError.
 */
export function ranksOf(
  environment: Readonly<Record<string, string | undefined>> = process.env,
): Ranks | undefined {
  if (typeof environment !== "object" || environment === null)
    throw new OptionError("environment", environment, "an object", "pass process.env.");
  for (const launcher of launchers) {
    const given = environment[launcher.ranks];
    if (!given || !environment[launcher.rank] || launcher.isOwn?.(environment) === false) continue;
    const ranks = countOf(environment, launcher.ranks, 1, 4096);
    const rank = countOf(environment, launcher.rank, 0, ranks - 1);
    const hasLocal = environment[launcher.localRank] !== undefined;
    const localRank = hasLocal ? countOf(environment, launcher.localRank, 0, ranks - 1) : rank;
    const address = environment[addressVariable] || launcher.address?.(environment);
    return { rank, ranks, localRank, launcher: launcher.name, address };
  }
  return undefined;
}

function countOf(environment: Environment, name: string, least: number, most: number): number {
  const text: unknown = environment[name];
  if (typeof text === "string" && /^\d+$/.test(text)) {
    const value = Number(text);
    if (value >= least && value <= most) return value;
  }
  const allowed = `an integer from ${least} to ${most}`;
  throw new CommError(`${name} is ${describe(text)}, not ${allowed}. Fix: start it by a launcher.`);
}

/** The first of Slurm's list of nodes, as in gpu[01-04,07],login: gpu01. */
export function firstHost(nodes: string): string {
  const [, prefix, first] = /^([^[,]+)(?:\[([^\],-]+))?/.exec(nodes) ?? [];
  return `${prefix ?? nodes}${first ?? ""}`;
}
