import { CommError, DeviceError } from "../errors.ts";
import { cString } from "../ffi/foreign.ts";
import { native } from "../ffi/library.ts";
import { check, failureOf, Status } from "../ffi/status.ts";
import { describe } from "../describe.ts";
import type { Ranks } from "./ranks.ts";
import { findLibrary, type LibraryName, libraryVariables } from "./libraries.ts";

/** A library of communication that is open. */
export interface CommLibrary {
  readonly name: "MPI" | "NCCL";
  readonly path: string;
  /** As in "Open MPI" or "NCCL 2.28.9". */
  readonly version: string;
  /** MPI's own count of this process and all; 0 and 0 of NCCL. */
  readonly rank: number;
  readonly ranks: number;
}

const kinds: Readonly<Record<LibraryName, number>> = { MPI: 0, NCCL: 1 };
const fixes: Readonly<Record<LibraryName, string>> = {
  MPI: "install openmpi-bin (Debian, Ubuntu) or MPICH",
  NCCL: "pip install nvidia-nccl-cu13",
};
const opened = new Map<LibraryName, CommLibrary>();

/** The variable that says how many seconds a rank waits for another, at most. */
const secondsVariable = "FLASHBUN_COMM_SECONDS";

/** Most milliseconds that one rank waits for another where nothing says it. Errors: CommError. */
export function usualTimeoutMs(): number {
  const text = process.env[secondsVariable];
  if (!text) return 60_000;
  const milliseconds = 1000 * Number(text);
  if (milliseconds >= 1 && milliseconds < 2 ** 31) return Math.floor(milliseconds);
  const allowed = "a number of seconds from 0.001 to 2000000";
  throw new CommError(`${secondsVariable} is ${describe(text)}, not ${allowed}. Fix: set it so.`);
}

/**
 * Opens MPI, which begins with it and ends with the process, or NCCL; once per process. Errors:
 * CommError when it is missing or too old, and when MPI's other ranks do not start in time.
 */
export function openLibrary(name: LibraryName, timeoutMs = usualTimeoutMs()): CommLibrary {
  let library = opened.get(name);
  if (library === undefined) opened.set(name, (library = open(name, timeoutMs)));
  return library;
}

function open(name: LibraryName, timeoutMs: number): CommLibrary {
  const { path, tried } = findLibrary(name);
  if (path === undefined) {
    const where = tried.length === 1 ? tried[0] : `${tried.length} places`;
    const fix = `${fixes[name]}, or set ${libraryVariables[name]} to its path.`;
    throw new CommError(`no ${name} was found at ${where}. Fix: ${fix}`);
  }
  const facts = new Int32Array(new ArrayBuffer(16));
  try {
    check(native().fb_comm_open(kinds[name], cString(path), timeoutMs, facts), name);
  } catch (cause) {
    if (!(cause instanceof DeviceError)) throw cause;
    const isLate = cause.status === Status.ranks;
    const fix = isLate
      ? "start all ranks, and look at what the others say."
      : `${fixes[name]}, or set ${libraryVariables[name]} to another.`;
    throw new CommError(`${cause.message}. Fix: ${fix}`, { cause });
  }
  if (name === "NCCL") {
    const [number] = facts;
    const version = `${Math.floor(number / 10000)}.${Math.floor(number / 100) % 100}`;
    return { name, path, version: `NCCL ${version}.${number % 100}`, rank: 0, ranks: 0 };
  }
  // A process that fails must not leave the others to wait for it, nor wait for them for ever.
  process.on("exit", (code) => {
    const status = native().fb_comm_end(code, timeoutMs);
    if (status === Status.ok) return;
    process.stderr.write(`flashbun: ${failureOf(status, name).message}\n`);
    process.exitCode = 1;
  });
  const [flavour, rank, ranks] = facts;
  return { name, path, version: flavour === 1 ? "Open MPI" : "MPICH", rank, ranks };
}

/** Throws a CommError unless MPI knows this process as the launcher does. */
export function requireSame({ rank, ranks, launcher }: Ranks, library: CommLibrary): void {
  if (library.rank === rank && library.ranks === ranks) return;
  throw new CommError(
    `${launcher} says rank ${rank} of ${ranks}, ${library.version} rank ${library.rank} of ` +
      `${library.ranks}. Fix: start ranks of CPUs by the mpirun of ${library.path}.`,
  );
}
