import { expect, test } from "bun:test";
import { join } from "node:path";
import { orphansOf, runRanks } from "../support/mpirun.ts";
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

test.concurrent.each([
  ["killed", /signal 9|KILLED/i],
  ["late", /rank \d: CommError: .*another rank did not come in time.* Fix: /],
  ["throws", /rank 2: another error: a fault of this rank/],
  ["stays", /flashbun: MPI: another rank did not end within 2.5 s/],
])(
  "a fault of one rank ends all: %s",
  async (fault, says) => {
    const environment = { FLASHBUN_COMM_SECONDS: "2.5" };
    const { code, stderr } = await runRanks(3, "comm/faults.ts", [fault], { environment });
    expect(stderr).toMatch(says);
    expect(code).not.toBe(0);
    // mpirun ends them, and they take a moment to go; one that hangs meets the test's limit.
    while (orphansOf(stderr).length > 0) await Bun.sleep(50);
  },
  60_000,
);

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
