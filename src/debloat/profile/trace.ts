/** Runs a command with the tracer in it and makes a profile of what it used. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { OptionError } from "../../errors.ts";
import { requireOptions, requireText } from "../../require.ts";
import { companionPath, preload, preloadable } from "../process/companions.ts";
import { type Ended, runCommand } from "../process/spawn.ts";
import type { HostMode, Profile } from "./profile.ts";
import { resolveTrace } from "./resolve.ts";
import { readTrace, type TraceEvents } from "./trace-events.ts";

/** How to trace. */
export interface TraceOptions {
  /** What of the host code to watch; default pages. Functions are exact but slow to start. */
  readonly host?: HostMode;
  /** Path of libcupti; default: the one that the command has, or CUDA's. */
  readonly cupti?: string;
  /** Called with a sentence for each thing that the profile lacks. */
  readonly onProblem?: (problem: string) => void;
}

/** What came of a traced run. */
export interface Traced {
  readonly profile: Profile;
  readonly ended: Ended;
  readonly processes: number;
  /** Of them, those that ended without saying so: killed, or ended in a way that cannot be seen. */
  readonly lost: number;
  /** Time that its processes spent in the tracer, together. */
  readonly tracerSeconds: number;
  /** Of it: opening CUPTI, looking at images that were loaded, and the ends of processes. */
  readonly tracerParts: {
    readonly opening: number;
    readonly images: number;
    readonly ending: number;
  };
  /** Functions that were entered, where they were watched. */
  readonly functions: number;
}

/**
 * Runs a command to its end with the tracer in it; its input and outputs are this process's.
 * @throws OptionError when the command cannot be started, LibraryError without the tracer
 */
export async function traceCommand(
  command: readonly string[],
  options: TraceOptions = {},
): Promise<Traced> {
  requireOptions("options", options, ["host", "cupti", "onProblem"]);
  const { host = "pages", cupti, onProblem } = options;
  if (!["pages", "functions", "off"].includes(host))
    throw new OptionError("host", host, "pages, functions or off", "leave it out for pages.");
  if (cupti !== undefined) requireText("cupti", cupti);
  const folder = mkdtempSync(join(tmpdir(), "flashbun-trace-"));
  try {
    const library = preloadable(companionPath("trace"), folder);
    const date = new Date().toISOString();
    const ended = await runCommand(command, {
      LD_PRELOAD: preload(library),
      CUDA_INJECTION64_PATH: library,
      // Else all kernels of a library are loaded with it, used or not.
      CUDA_MODULE_LOADING: "LAZY",
      FLASHBUN_TRACE: folder,
      FLASHBUN_TRACE_HOST: host,
      ...(cupti === undefined ? {} : { FLASHBUN_CUPTI: cupti }),
    });
    const events = readTrace(folder);
    for (const problem of [...events.problems, ...lacks(events, host)]) onProblem?.(problem);
    const profile = resolveTrace(events, onProblem);
    profile.runs.push({ command: [...command], date, host, ...gpuOf(events) });
    const { processes, lost, libraries, trapSeconds } = events;
    let functions = 0;
    for (const { entered } of libraries.values()) functions += entered.size;
    const tracerSeconds = events.tracerSeconds + functions * trapSeconds;
    return { profile, ended, processes, lost, tracerSeconds, tracerParts: events.parts, functions };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function lacks({ processes, lost }: TraceEvents, host: HostMode): string[] {
  if (processes === 0)
    return ["the tracer did not run: the command is a static program, or not of glibc"];
  if (lost === 0 || host !== "pages") return [];
  return [
    `${lost} of ${processes} processes were killed before they said which pages they touched: ` +
      "trace a run that ends by itself, or with --host functions",
  ];
}

function gpuOf({ gpu }: TraceEvents): Pick<Profile["runs"][number], "gpu" | "driver" | "cuda"> {
  if (gpu === null) return { gpu: null, driver: null, cuda: null };
  const cuda = `${Math.floor(gpu.cuda / 1000)}.${Math.floor((gpu.cuda % 1000) / 10)}`;
  return { gpu: `sm_${gpu.arch}`, driver: driverVersion(), cuda };
}

function driverVersion(): string | null {
  try {
    const text = readFileSync("/proc/driver/nvidia/version", "utf8");
    return /\b\d{3}\.\d+(\.\d+)?\b/.exec(text)?.[0] ?? null;
  } catch {
    return null;
  }
}
