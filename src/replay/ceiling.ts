/** What plain reading of memory reaches, beside which a run's own rate is set. */
import type { Device } from "../device/device.ts";
import { readRate } from "../device/probe.ts";
import type { ReplayOptions, ReplayResult } from "./types.ts";

/** How often it is measured after a run that seems to have read faster. */
const repeatsMost = 3;

/** In 1e9 bytes per second; 0 where the options leave it out. */
export async function readCeiling(device: Device, { probe }: ReplayOptions): Promise<number> {
  return probe === false ? 0 : await readRate(device, probeBytes(device));
}

/** Raises a result's ceiling: others on the machine may have held reading back before the run. */
export async function measureAgain(
  device: Device,
  options: ReplayOptions,
  result: ReplayResult,
): Promise<void> {
  for (let repeat = 0; repeat < repeatsMost; repeat++) {
    if (repeat > 0 && result.readCeilingGBs >= result.kvReadGBs) return;
    result.readCeilingGBs = Math.max(result.readCeilingGBs, await readCeiling(device, options));
  }
}

/** Bytes to read for the ceiling: far beyond a GPU's caches, next to none where it is emulated. */
function probeBytes({ kind, properties }: Device): number | undefined {
  if (kind === "cpu") return undefined;
  return properties.emulated ? 1 << 20 : 1 << 30;
}
