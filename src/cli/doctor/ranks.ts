import { findLibrary } from "../../comm/libraries.ts";
import { openLibrary } from "../../comm/library.ts";
import { ranksOf } from "../../comm/ranks.ts";
import { CommError } from "../../errors.ts";
import type { Say } from "./finding.ts";

/** Says by what ranks of several processes would meet. */
export function lookAtRanks(say: Say): void {
  const mpi = findLibrary("MPI");
  // It is not opened: MPI would start.
  say("MPI", mpi.path ?? "not found: several CPU processes need it", mpi.path ? "ok" : "none");
  if (findLibrary("NCCL").path === undefined)
    say("NCCL", "not found: several GPUs need it", "none");
  else {
    try {
      const { version, path } = openLibrary("NCCL");
      say("NCCL", `${version}, ${path}`);
    } catch (error) {
      if (!(error instanceof CommError)) throw error;
      say("NCCL", error.message, "warn");
    }
  }
  const ranks = ranksOf();
  if (ranks === undefined) return;
  const { rank, ranks: count, launcher, address } = ranks;
  say("ranks", `rank ${rank} of ${count}, by ${launcher}${address ? `, at ${address}` : ""}`);
}
