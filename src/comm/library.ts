import { CommError, DeviceError } from "../errors.ts";
import { cString } from "../ffi/foreign.ts";
import { native } from "../ffi/library.ts";
import { check } from "../ffi/status.ts";
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

/**
 * Opens MPI, which begins with it and ends with the process, or NCCL; once per process. Errors:
 * CommError when it is missing or too old.
 */
export function openLibrary(name: LibraryName): CommLibrary {
  let library = opened.get(name);
  if (library === undefined) opened.set(name, (library = open(name)));
  return library;
}

function open(name: LibraryName): CommLibrary {
  const { path, tried } = findLibrary(name);
  if (path === undefined) {
    const where = tried.length === 1 ? tried[0] : `${tried.length} places`;
    const fix = `${fixes[name]}, or set ${libraryVariables[name]} to its path.`;
    throw new CommError(`no ${name} was found at ${where}. Fix: ${fix}`);
  }
  const facts = new Int32Array(new ArrayBuffer(16));
  try {
    check(native().fb_comm_open(kinds[name], cString(path), facts), name);
  } catch (cause) {
    if (!(cause instanceof DeviceError)) throw cause;
    const fix = `${fixes[name]}, or set ${libraryVariables[name]} to another.`;
    throw new CommError(`${cause.message}. Fix: ${fix}`, { cause });
  }
  if (name === "NCCL") {
    const [number] = facts;
    const version = `${Math.floor(number / 10000)}.${Math.floor(number / 100) % 100}`;
    return { name, path, version: `NCCL ${version}.${number % 100}`, rank: 0, ranks: 0 };
  }
  // A process that fails must not leave the others to wait for it.
  process.on("exit", (code) => void native().fb_comm_end(code));
  const [flavour, rank, ranks] = facts;
  return { name, path, version: flavour === 1 ? "Open MPI" : "MPICH", rank, ranks };
}
