import { Communicator } from "../comm/communicator.ts";
import { Loading } from "../comm/loading.ts";
import { type Ranks, ranksOf } from "../comm/ranks.ts";
import { version } from "../../package.json";
import type { Device } from "../device/device.ts";
import type { DeviceKind } from "../device/open.ts";
import { CommError, OptionError } from "../errors.ts";
import { Turns } from "./turns.ts";

/** The processes that share an engine's model, met. */
export interface EngineRanks {
  readonly comm: Communicator;
  readonly turns: Turns;
}

/**
 * This process's rank among `tp`; undefined where nothing is said, and for 1 without a launcher.
 * Errors: CommError, OptionError for several of an engine that is to be deterministic.
 */
export function ranksFor(tp: number | undefined, deterministic: boolean): Ranks | undefined {
  if (deterministic && tp !== undefined && tp > 1) {
    const why = "left out beside deterministic: sums over ranks round as their sizes go";
    throw new OptionError("tp", tp, why, "leave one of the two out.");
  }
  const ranks = tp === undefined ? undefined : ranksOf();
  if (tp === undefined || (tp === 1 && ranks?.ranks !== 1)) return undefined;
  const fix = `start ${tp} ranks by mpirun, torchrun or srun, or flashbun serve --tp ${tp}.`;
  if (ranks === undefined) throw new CommError(`tp is ${tp}, and no launcher is seen. Fix: ${fix}`);
  if (ranks.ranks === tp) return ranks;
  throw new CommError(`tp is ${tp}, and ${ranks.launcher} started ${ranks.ranks}. Fix: ${fix}`);
}

/** Whether ranks have parts of the keys of each request. Errors: OptionError. */
export function splitsContextOf({ tp = 1, dcp = 1 }: { tp?: number; dcp?: number }): boolean {
  if (dcp === 1) return false;
  if (dcp === tp) return true;
  const allowed = tp === 1 ? "1 without tp" : `1 or ${tp}, as many ranks as tp says`;
  throw new OptionError("dcp", dcp, allowed, `pass tp: ${dcp} too.`);
}

/** The device of a rank: each has a GPU of its own. */
export function deviceOf(kind: DeviceKind | "auto", ranks: Ranks | undefined): DeviceKind | "auto" {
  if (ranks === undefined || kind === "cpu") return kind;
  // A launcher that shows each rank its own GPU alone has chosen already.
  const shown = (process.env["CUDA_VISIBLE_DEVICES"] ?? "").split(",").filter(Boolean);
  return shown.length === 1 ? "cuda:0" : `cuda:${ranks.localRank}`;
}

/** Meets the other ranks, which must want the same. Errors: CommError. */
export async function meet(device: Device, ranks: Ranks, wanted: object) {
  await using made = new AsyncDisposableStack();
  const comm = made.use(await Communicator.open(device, { ranks }));
  const bytesOf = (what: unknown) => new TextEncoder().encode(JSON.stringify(what));
  await comm.requireEqual("the version", bytesOf(version));
  await comm.requireEqual("what is loaded", bytesOf(wanted));
  const turns = made.use(await Turns.open(comm, ranks));
  const loading = await Loading.open(comm, ranks);
  made.move();
  return { comm, turns, loading };
}
