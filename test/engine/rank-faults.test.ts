/** Faults of one rank of an engine's two: all end, in time, with a reason. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { orphansOf } from "../support/mpirun.ts";
import { type RanksLeft, startRanks } from "../support/ranks.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-rank-faults-"));
afterAll(() => rmSync(folder, { recursive: true }));
const sizes = { layers: 1, hidden: 64, intermediate: 96, queryHeads: 8, kvHeads: 2, headDim: 8 };
const path = writeFolder(
  join(folder, "tiny"),
  tinyModel(1, { ...sizes, context: 128, tied: true }),
);
const request = { tokens: [3, 4, 5, 6, 7], maxTokens: 60, ignoreEnd: true };
const requests = [request, { ...request, tokens: [100, 5] }];

const late = /CommError: .*another rank did not (start|come) (in time|within 2 s).* Fix: /;
test.concurrent.each([
  ["killed", /signal 9|KILLED/i, {}],
  ["late", late, { FLASHBUN_COMM_SECONDS: "2" }],
  ["stops", late, { FLASHBUN_COMM_SECONDS: "2" }],
  ["killed loading", /signal 9|KILLED/i, {}],
  ["stops loading", late, { FLASHBUN_COMM_SECONDS: "2" }],
  ["library", /CommError: no MPI was found at FLASHBUN_MPI=\/nowhere\/libmpi.so\. Fix: /, {}],
  ["version", /CommError: the version of rank [01] differs from that of rank [01]\. Fix: /, {}],
  ["unequal", /CommError: the plan of rank [01] differs from that of/, { FLASHBUN_SYNC: "1" }],
  ["unequal", /CommError: /, { FLASHBUN_COMM_SECONDS: "2" }],
])(
  "%s",
  async (fault, says, environment) => {
    const { code, stdout, stderr } = await startRanks(2, [{ path, requests }], {
      fault,
      environment,
    });
    expect(code).not.toBe(0);
    expect(`${stdout}${stderr}`).toMatch(says);
    // Where rank 0 had begun and was left time, its requests have the reason, their pages are free.
    if (stdout !== "") {
      const [{ answers, left, pagesUsed }] = JSON.parse(stdout) as RanksLeft[];
      for (const { reason } of answers) expect(reason).toContain("CommError");
      expect([left, pagesUsed]).toEqual([0, 0]);
    }
    while (orphansOf(stderr).length > 0) await Bun.sleep(50);
  },
  60_000,
);

test.concurrent.each(["loads slowly", "rank 0 loads slowly"])(
  "%s: the others wait for longer than the time-out",
  async (fault) => {
    const speculate = { method: "draft", model: path };
    const job = { path, requests, options: { pages: 40, speculate } };
    const environment = { FLASHBUN_COMM_SECONDS: "6" };
    const { code, stdout, stderr } = await startRanks(2, [job], { fault, environment });
    expect(stderr.replaceAll(/^pid \d+\n/gm, "")).toBe("");
    expect(code).toBe(0);
    const [{ answers }] = JSON.parse(stdout) as RanksLeft[];
    expect(answers.map(({ reason }) => reason)).toEqual(["length", "length"]);
  },
  60_000,
);
