import { availableParallelism } from "node:os";
import { DriverError, OptionError } from "../errors.ts";
import { cString, out, valueOf } from "../ffi/foreign.ts";
import { native } from "../ffi/library.ts";
import { DriverProperties } from "../ffi/params.gen.ts";
import { check, failureOf, Status } from "../ffi/status.ts";
import type { DeviceHandle } from "../ffi/symbols.ts";
import { requireInteger, requireOptions, requireText } from "../require.ts";

/** What to open: "auto" takes a real GPU where one answers, else the CPU. */
export type DeviceKind = "auto" | "cpu" | `cuda:${number}`;

/** x86-64 levels of the CPU kernels, in rising order. */
export const cpuLevels = ["baseline", "v3", "v4"] as const;
/** One of {@link cpuLevels}. */
export type CpuLevel = (typeof cpuLevels)[number];

/** Options of Device.open. */
export interface DeviceOptions {
  /** CPU threads; default FLASHBUN_THREADS, else cores - 1. */
  threads?: number;
  /** CPU kernels to run; default FLASHBUN_CPU, else the best of this processor. */
  level?: CpuLevel;
  /** Most bytes that the device hands out; default: no limit beyond the system's. */
  memoryLimitBytes?: number;
}

/** A native device that was just opened, and why it was taken. */
export interface Opened {
  kind: "cpu" | "cuda";
  /** Number of the GPU; 0 for the CPU. */
  ordinal: number;
  handle: DeviceHandle;
  why: string;
}

/** What the CUDA driver of this machine says. */
export interface Driver {
  /** CUDA version that the driver supports, such as "13.0". */
  version: string;
  deviceCount: number;
  /** True for the emulated GPU that tests run on. */
  emulated: boolean;
}

const opened = out<DeviceHandle>();

/**
 * Opens the CUDA driver, once per process: libcuda.so.1, or the library that FLASHBUN_LIBCUDA
 * names. Errors: DriverError that says what was found and what is needed.
 */
export function openDriver(): Driver {
  const wanted = process.env["FLASHBUN_LIBCUDA"];
  const properties = new DriverProperties();
  const status = native().fb_driver_open(wanted ? cString(wanted) : null, properties.view);
  if (status !== Status.ok) {
    const { message } = failureOf(status, "CUDA driver");
    throw new DriverError(message, status === Status.notFound);
  }
  const { version, deviceCount, emulated } = properties;
  const text = `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
  return { version: text, deviceCount, emulated: emulated !== 0 };
}

/** Opens a native device. Errors: OptionError, DriverError. */
export function openNative(kind: DeviceKind, options: DeviceOptions): Opened {
  requireOptions("options", options, ["threads", "level", "memoryLimitBytes"]);
  const limit = options.memoryLimitBytes ?? 2 ** 47;
  requireInteger("memoryLimitBytes", limit, 1);
  if (kind === "cpu") return openCpu(options, limit, "asked for by name");
  if (kind === "auto") return openBest(options, limit);
  requireText("kind", kind);
  const ordinal = /^cuda:(\d{1,3})$/.exec(kind)?.[1];
  if (ordinal === undefined) {
    throw new OptionError("kind", kind, '"auto", "cpu" or "cuda:0"', 'open "auto".');
  }
  return openCuda(Number(ordinal), options, limit, "asked for by name");
}

function openBest(options: DeviceOptions, limit: number): Opened {
  if (options.threads !== undefined || options.level !== undefined) {
    return openCpu(options, limit, "options of the CPU were given");
  }
  let driver: Driver;
  try {
    driver = openDriver();
  } catch (error) {
    if (!(error instanceof DriverError)) throw error;
    return openCpu(options, limit, error.message);
  }
  if (driver.emulated) return openCpu(options, limit, "the only GPU is emulated");
  return openCuda(0, options, limit, `the CUDA ${driver.version} driver answers`);
}

function openCuda(ordinal: number, options: DeviceOptions, limit: number, why: string): Opened {
  for (const option of ["threads", "level"] as const) {
    if (options[option] === undefined) continue;
    const fix = 'open "cpu", or leave it out.';
    throw new OptionError(option, options[option], "left out for a CUDA device", fix);
  }
  const { deviceCount } = driverFor(ordinal);
  if (ordinal >= deviceCount) {
    const allowed = `below ${deviceCount}, the GPUs that the driver shows`;
    throw new OptionError("kind", `cuda:${ordinal}`, allowed, 'open "cuda:0", or "auto".');
  }
  const status = native().fb_device_open(1, ordinal, 0, limit, opened);
  check(status, `open cuda:${ordinal}`);
  return { kind: "cuda", ordinal, handle: valueOf(opened), why };
}

/** The driver, without which the GPU that was asked for is not there. */
function driverFor(ordinal: number): Driver {
  try {
    return openDriver();
  } catch (error) {
    if (!(error instanceof DriverError)) throw error;
    const fix = "take cpu, or a machine with a GPU and a driver for CUDA 12.4 or later.";
    throw new DriverError(`cuda:${ordinal}: ${error.message}. Fix: ${fix}`, error.absent);
  }
}

function openCpu(options: DeviceOptions, limit: number, why: string): Opened {
  const threads = threadsOf(options);
  const level = levelOf(options);
  const status = native().fb_device_open(0, threads, level, limit, opened);
  if (status === Status.unsupported) {
    const sentence = failureOf(status, "open").message;
    throw new OptionError("level", cpuLevels[level], "one this processor runs", `${sentence}.`);
  }
  check(status, "open cpu device");
  return { kind: "cpu", ordinal: 0, handle: valueOf(opened), why };
}

function threadsOf(options: DeviceOptions): number {
  const fromEnvironment = process.env["FLASHBUN_THREADS"];
  if (options.threads !== undefined) {
    requireInteger("threads", options.threads, 1, 1024);
    return options.threads;
  }
  if (!fromEnvironment) return Math.max(1, availableParallelism() - 1);
  const count = Number(fromEnvironment);
  if (!Number.isInteger(count)) {
    const allowed = "an integer from 1 to 1024";
    throw new OptionError("FLASHBUN_THREADS", fromEnvironment, allowed, "give the threads.");
  }
  requireInteger("FLASHBUN_THREADS", count, 1, 1024);
  return count;
}

function levelOf(options: DeviceOptions): number {
  const wanted = options.level ?? (process.env["FLASHBUN_CPU"] || undefined);
  if (wanted === undefined) return -1;
  const level = cpuLevels.indexOf(wanted as CpuLevel);
  if (level >= 0) return level;
  const option = options.level === undefined ? "FLASHBUN_CPU" : "level";
  throw new OptionError(option, wanted, `one of ${cpuLevels.join(", ")}`, "name one of them.");
}
