import { existsSync } from "node:fs";
import { join } from "node:path";
import { Device } from "../../src/device/device.ts";
import { type CpuLevel, cpuLevels, openDriver } from "../../src/device/open.ts";
import { DriverError, OptionError } from "../../src/errors.ts";
import { type DType, isFp8 } from "../../src/tensor/dtype.ts";
import type { Case } from "./cases.ts";
import { root } from "./sources.ts";

/** A device that the tests of attention run on. */
export interface Target {
  /** "v3", or "cuda:0 (emulated)". */
  readonly name: string;
  readonly kind: "cpu" | "cuda";
  /** CPU threads, or the GPU as it is. */
  open(threads: number): Promise<Device>;
}

/** The emulated GPU of this build. */
export const emulatedLibrary = join(root, "zig-out/lib/libcuda-emulated.so");

/** Every device that is here; FLASHBUN_TEST_DEVICE=cpu or cuda and FLASHBUN_CPU narrow them. */
export async function targetsHere(): Promise<Target[]> {
  const wanted = process.env["FLASHBUN_TEST_DEVICE"];
  const cpus = wanted === "cuda" ? [] : (await levelsHere()).map(cpuTarget);
  const gpu = wanted === "cpu" ? undefined : gpuTarget();
  if (wanted === "cuda" && gpu === undefined) throw new Error("no GPU answers, emulated or real");
  return gpu === undefined ? cpus : [...cpus, gpu];
}

/** The levels this processor runs; FLASHBUN_CPU narrows them to one. */
export async function levelsHere(): Promise<CpuLevel[]> {
  const wanted = process.env["FLASHBUN_CPU"];
  const levels: CpuLevel[] = [];
  for (const level of cpuLevels) {
    if (wanted && level !== wanted) continue;
    try {
      await using device = await Device.open("cpu", { level, threads: 1 });
      levels.push(device.level);
    } catch (error) {
      if (!(error instanceof OptionError)) throw error;
    }
  }
  return levels;
}

/** The CPU at its best level, and the GPU if one is here: for tests that no kernel decides. */
export async function deviceTargets(): Promise<Target[]> {
  const wanted = process.env["FLASHBUN_TEST_DEVICE"];
  const cpu = wanted === "cuda" ? [] : [cpuTarget((await levelsHere()).at(-1)!)];
  const gpu = wanted === "cpu" ? undefined : gpuTarget();
  return gpu === undefined ? cpu : [...cpu, gpu];
}

function cpuTarget(level: CpuLevel): Target {
  return {
    name: level,
    kind: "cpu",
    open: (threads) => Device.open("cpu", { level, threads }),
  };
}

/** The GPU of this machine, else the emulated one of this build, else none. */
export function gpuTarget(): Target | undefined {
  if (process.env["FLASHBUN_TEST_DEVICE"] === "cpu") return undefined;
  if (!process.env["FLASHBUN_LIBCUDA"] && !realDriver() && existsSync(emulatedLibrary))
    process.env["FLASHBUN_LIBCUDA"] = emulatedLibrary;
  let emulated: boolean;
  try {
    ({ emulated } = openDriver());
  } catch (error) {
    if (!(error instanceof DriverError)) throw error;
    return undefined;
  }
  const name = emulated ? "cuda:0 (emulated)" : "cuda:0";
  return { name, kind: "cuda", open: () => Device.open("cuda:0") };
}

/** The driver is opened once per process, so that looking for it must not open it. */
function realDriver(): boolean {
  return existsSync("/dev/nvidiactl") || existsSync("/dev/nvidia0");
}

/** What a case depends on. */
export interface CaseDevice {
  readonly kind: "cpu" | "cuda";
  readonly properties: { readonly computeMajor: number };
}

/**
 * The case in what the device computes in: GPUs take 16-bit queries (before 8.0 no bf16), and keys
 * alike or in fp8; beside fp8 queries keys of any of these.
 */
export function caseOn(device: CaseDevice, c: Case): Case {
  if (device.kind === "cpu") return c;
  const either = c.dtype === "f32" ? (c.seed % 2 === 0 ? "f16" : "bf16") : c.dtype;
  const halfOf = (dtype: DType) => (device.properties.computeMajor < 8 ? "f16" : dtype);
  const dtype = isFp8(either) ? either : halfOf(either);
  if (isFp8(c.kvDtype)) return { ...c, dtype };
  const besideFp8 = c.kvDtype === "f32" ? "f16" : halfOf(c.kvDtype);
  return { ...c, dtype, kvDtype: isFp8(dtype) ? besideFp8 : dtype };
}
