import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { firstHost, ranksOf } from "../../src/comm/ranks.ts";
import { CommError } from "../../src/errors.ts";
import { runRanks } from "../support/mpirun.ts";
import { root } from "../support/sources.ts";

test.each([
  [1, "Open MPI"],
  [2, "Open MPI"],
  [3, "Open MPI"],
  [4, "Open MPI"],
  [2, "MPICH"],
] as const)(
  "%i ranks of %s exchange what they have",
  async (ranks, library) => {
    const { code, stdout, stderr } = await runRanks(ranks, "comm/collectives.ts", [], { library });
    expect(stderr).toBe("");
    expect(JSON.parse(stdout)).toEqual({ library, found: "" });
    expect(code).toBe(0);
  },
  120_000,
);

test.each([1, 2, 4])(
  "%i ranks with parts of the keys attend as one with all",
  async (ranks) => {
    const { code, stdout, stderr } = await runRanks(ranks, "comm/context.ts");
    expect(stderr).toBe("");
    expect(code).toBe(0);
    const lines = stdout.trim().split("\n");
    expect(lines.length).toBe(ranks);
    for (const line of lines)
      for (const worst of JSON.parse(line) as number[]) expect(worst).toBeLessThan(2e-6);
  },
  120_000,
);

describe("a fault of one rank ends all", () => {
  /** Processes of the run that still run; those that nobody has buried do not. */
  const orphans = (stderr: string) =>
    [...stderr.matchAll(/^pid (\d+)$/gm)].filter(([, pid]) => {
      const path = `/proc/${pid}/stat`;
      return existsSync(path) && !/\) [ZX] /.test(readFileSync(path, "utf8"));
    });

  test.each([
    ["killed", /signal 9|KILLED/i],
    ["late", /rank \d: CommError: .*another rank did not come in time.* Fix: /],
    ["throws", /rank 2: another error: a fault of this rank/],
  ])(
    "%s",
    async (fault, says) => {
      const { code, stdout, stderr } = await runRanks(3, "comm/faults.ts", [fault]);
      expect(stderr).toMatch(says);
      expect(stdout).not.toContain("done");
      expect(code).not.toBe(0);
      // mpirun ends them, and they take a moment to go; one that hangs meets the test's limit.
      while (orphans(stderr).length > 0) await Bun.sleep(50);
    },
    60_000,
  );

  test("no rank has one without a fault", async () => {
    const { code, stdout } = await runRanks(3, "comm/faults.ts", ["none"]);
    expect([code, stdout]).toEqual([0, "done\ndone\ndone\n"]);
  }, 120_000);
});

async function runAlone(environment: Record<string, string>): Promise<string> {
  const child = Bun.spawn([process.execPath, join(root, "test/comm/faults.ts"), "none"], {
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, ...environment },
  });
  const stderr = await new Response(child.stderr).text();
  expect(await child.exited).toBe(3);
  return stderr;
}

test("a library that is not there is named, with what to install", async () => {
  const torchrun = { RANK: "0", WORLD_SIZE: "2", LOCAL_RANK: "0" };
  const missing = await runAlone({ ...torchrun, FLASHBUN_MPI: "/nowhere/libmpi.so" });
  expect(missing).toContain("CommError: no MPI was found at FLASHBUN_MPI=/nowhere/libmpi.so. Fix:");
  const other = Bun.resolveSync("../../zig-out/lib/libflashbun.so", import.meta.dir);
  const foreign = await runAlone({ ...torchrun, FLASHBUN_MPI: other });
  expect(foreign).toMatch(/CommError: .*lacks MPI_Init_thread: MPI 3.0 or later is needed/);
});

describe("launchers", () => {
  test.each([
    [{}, undefined],
    [
      { OMPI_COMM_WORLD_RANK: "1", OMPI_COMM_WORLD_SIZE: "4", OMPI_COMM_WORLD_LOCAL_RANK: "1" },
      { rank: 1, ranks: 4, localRank: 1, launcher: "mpirun", address: undefined },
    ],
    [
      { PMI_RANK: "2", PMI_SIZE: "3" },
      { rank: 2, ranks: 3, localRank: 2, launcher: "mpirun", address: undefined },
    ],
    [
      { RANK: "9", WORLD_SIZE: "16", LOCAL_RANK: "1", MASTER_ADDR: "a.b", MASTER_PORT: "29500" },
      { rank: 9, ranks: 16, localRank: 1, launcher: "torchrun", address: "a.b:29501" },
    ],
    [
      {
        SLURM_PROCID: "5",
        SLURM_STEP_NUM_TASKS: "8",
        SLURM_LOCALID: "1",
        SLURM_STEP_NODELIST: "gpu[03-04,9]",
        SLURM_JOB_ID: "123456",
      },
      { rank: 5, ranks: 8, localRank: 1, launcher: "Slurm", address: "gpu03:23456" },
    ],
    [
      { FLASHBUN_RANK: "1", FLASHBUN_RANKS: "2", FLASHBUN_COMM: "127.0.0.1:4000" },
      { rank: 1, ranks: 2, localRank: 1, launcher: "flashbun", address: "127.0.0.1:4000" },
    ],
  ])("%j", (environment: Record<string, string>, ranks) => {
    expect(ranksOf(environment)).toEqual(ranks);
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
    expect(["n1", "n[1-2]", "a-[07,09],b", "x,y"].map(firstHost)).toEqual([
      "n1",
      "n1",
      "a-07",
      "x",
    ]);
  });
});
