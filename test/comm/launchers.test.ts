/** What launchers say of a process: as real ones said it, and as it stands in their manuals. */
import { expect, test } from "bun:test";
import { isAlone } from "../../src/cli/model/ranks.ts";
import { firstHost, ranksOf } from "../../src/comm/ranks.ts";
import { CommError } from "../../src/errors.ts";

type Environment = Record<string, string>;

/** Of rank 1 of `torchrun --nproc_per_node 2`, torch 1.13.1 as Debian 12 has it, but for OMP's. */
const torchrun: Environment = {
  GROUP_RANK: "0",
  GROUP_WORLD_SIZE: "1",
  LOCAL_RANK: "1",
  LOCAL_WORLD_SIZE: "2",
  MASTER_ADDR: "127.0.0.1",
  MASTER_PORT: "29500",
  NCCL_ASYNC_ERROR_HANDLING: "1",
  RANK: "1",
  ROLE_NAME: "default",
  ROLE_RANK: "1",
  ROLE_WORLD_SIZE: "2",
  TORCHELASTIC_MAX_RESTARTS: "0",
  TORCHELASTIC_RESTART_COUNT: "0",
  TORCHELASTIC_RUN_ID: "none",
  TORCHELASTIC_USE_AGENT_STORE: "True",
  WORLD_SIZE: "2",
};

/** Of a script under `sbatch -n 2`, Slurm 22.05.8 as Debian 12 has it: it is no rank. */
const sbatch: Environment = {
  SLURMD_NODENAME: "node",
  SLURM_CPUS_ON_NODE: "2",
  SLURM_GTIDS: "0",
  SLURM_JOBID: "3",
  SLURM_JOB_ID: "3",
  SLURM_JOB_NODELIST: "node",
  SLURM_JOB_NUM_NODES: "1",
  SLURM_LOCALID: "0",
  SLURM_NNODES: "1",
  SLURM_NODEID: "0",
  SLURM_NODELIST: "node",
  SLURM_NPROCS: "2",
  SLURM_NTASKS: "2",
  SLURM_PROCID: "0",
  SLURM_TASKS_PER_NODE: "2",
};

/** Of task 1 of `srun -n 2` there, and what --mpi=pmi2 adds. */
const srun: Environment = {
  ...sbatch,
  SLURM_GTIDS: "0,1",
  SLURM_LAUNCH_NODE_IPADDR: "127.0.0.1",
  SLURM_LOCALID: "1",
  SLURM_PROCID: "1",
  SLURM_STEPID: "0",
  SLURM_STEP_ID: "0",
  SLURM_STEP_NODELIST: "node",
  SLURM_STEP_NUM_NODES: "1",
  SLURM_STEP_NUM_TASKS: "2",
  SLURM_STEP_TASKS_PER_NODE: "2",
};
const pmi2 = { PMI_FD: "13", PMI_JOBID: "2.0", PMI_RANK: "1", PMI_SIZE: "2" };
/** Of rank 1 of `mpirun -n 2`, Open MPI 4.1.8, what says who it is. */
const openMpi = {
  OMPI_COMM_WORLD_LOCAL_RANK: "1",
  OMPI_COMM_WORLD_LOCAL_SIZE: "2",
  OMPI_COMM_WORLD_NODE_RANK: "1",
  OMPI_COMM_WORLD_RANK: "1",
  OMPI_COMM_WORLD_SIZE: "2",
  OMPI_UNIVERSE_SIZE: "2",
};

const one = { rank: 1, ranks: 2, localRank: 1 };
const slurm = { ...one, launcher: "Slurm", address: "node:20003" };
const byMpi = { ...one, launcher: "mpirun", address: undefined };
const byTorch = { ...one, launcher: "torchrun", address: "127.0.0.1:29501" };
test.each<[string, Environment, object | undefined]>([
  ["none", {}, undefined],
  ["torchrun", torchrun, byTorch],
  ["a script of sbatch", sbatch, undefined],
  ["srun", srun, slurm],
  ["srun with pmi2", { ...srun, ...pmi2 }, slurm],
  ["torchrun in a task of srun", { ...srun, ...torchrun }, byTorch],
  ["Open MPI", openMpi, byMpi],
  ["Open MPI in a job of Slurm", { ...sbatch, ...openMpi }, byMpi],
  ["MPICH", { PMI_RANK: "1", PMI_SIZE: "2" }, byMpi],
  // Its mpirun starts a process on each node by srun, which starts the ranks there.
  [
    "MPICH in a job of Slurm",
    { ...srun, SLURM_PROCID: "0", SLURM_STEP_NUM_TASKS: "1", PMI_RANK: "1", PMI_SIZE: "2" },
    byMpi,
  ],
  [
    "torchrun on the second of two machines",
    { ...torchrun, RANK: "9", WORLD_SIZE: "16", LOCAL_RANK: "1", MASTER_ADDR: "a.b" },
    { rank: 9, ranks: 16, localRank: 1, launcher: "torchrun", address: "a.b:29501" },
  ],
  [
    "srun on several nodes",
    {
      ...srun,
      SLURM_PROCID: "5",
      SLURM_STEP_NUM_TASKS: "8",
      SLURM_STEP_NODELIST: "gpu[03-04,9]",
      SLURM_JOB_ID: "123456",
    },
    { rank: 5, ranks: 8, localRank: 1, launcher: "Slurm", address: "gpu03:23456" },
  ],
  [
    "--tp",
    { FLASHBUN_RANK: "1", FLASHBUN_RANKS: "2", FLASHBUN_COMM: "127.0.0.1:4000" },
    { ...one, launcher: "flashbun", address: "127.0.0.1:4000" },
  ],
])("%s", (_, environment, ranks) => {
  expect(ranksOf(environment)).toEqual(ranks as ReturnType<typeof ranksOf>);
});

test.each([
  { RANK: "2", WORLD_SIZE: "2" },
  { RANK: "-1", WORLD_SIZE: "2" },
  { RANK: "0", WORLD_SIZE: "0" },
  { RANK: "x", WORLD_SIZE: "2" },
])("%j is refused", (environment) => {
  expect(() => ranksOf(environment)).toThrow(CommError);
});

test("lists of nodes begin with a host", () => {
  expect(["n1", "n[1-2]", "a-[07,09],b", "x,y"].map(firstHost)).toEqual(["n1", "n1", "a-07", "x"]);
});

test("--tp starts its ranks where nothing did, in a shell of Slurm too", () => {
  const shell = { ...srun, SLURM_PROCID: "0", SLURM_STEP_NUM_TASKS: "1", SLURM_LOCALID: "0" };
  const alone = [{}, sbatch, shell, srun, openMpi, torchrun].map((environment) =>
    isAlone(ranksOf(environment)),
  );
  expect(alone).toEqual([true, true, true, false, false, false]);
});
