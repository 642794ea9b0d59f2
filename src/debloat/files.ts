/** Files: mapped, hashed, and written whole or not at all. */
import {
  closeSync,
  fchmodSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { DebloatError } from "../errors.ts";
import { partOf } from "../part-files.ts";
import { requireText } from "../require.ts";
import { copyRange, mapReadOnly } from "../ffi/mapping.ts";

const pieceBytes = 2 ** 24;

/** A file that is being written. */
export interface Writer {
  /** Bytes so far. */
  readonly bytes: number;
  write(bytes: Uint8Array): void;
  /** Writes a run of a file that is mapped. */
  copy(source: MappedFile, offset: number, bytes: number): void;
  /** Overwrites from an offset. */
  writeAt(offset: number, bytes: Uint8Array): void;
  /** SHA-256 of what was written so far, in hex. */
  hash(): string;
}

/** A mapped file that was opened too. */
export interface MappedFile {
  readonly data: Uint8Array;
  readonly descriptor: number;
}

/**
 * Writes a file by way of a temporary one in the same folder, which a failure removes.
 * @param mode permissions of the file
 * @param fill writes it; if it throws, nothing was written
 * @throws DebloatError when it cannot be written
 */
export function writeAtomically(path: string, mode: number, fill: (writer: Writer) => void): void {
  requireText("output", path);
  const temporary = partOf(path);
  let descriptor: number | undefined;
  try {
    descriptor = openSync(temporary, "wx+", 0o600);
    fill(writerOn(descriptor));
    fchmodSync(descriptor, mode);
    closeSync(descriptor);
    descriptor = undefined;
    renameSync(temporary, path);
  } catch (cause) {
    if (descriptor !== undefined) closeSync(descriptor);
    rmSync(temporary, { force: true });
    throw asDebloatError(cause, path);
  }
}

function writerOn(descriptor: number): Writer {
  let bytes = 0;
  const writeAt = (offset: number, data: Uint8Array) => {
    // One call may write less than it was given, and no more than two gigabytes.
    for (let at = 0; at < data.length;)
      at += writeSync(descriptor, data, at, Math.min(pieceBytes, data.length - at), offset + at);
  };
  const write = (data: Uint8Array) => {
    writeAt(bytes, data);
    bytes += data.length;
  };
  return {
    get bytes() {
      return bytes;
    },
    write,
    copy(source, offset, count) {
      const copied = copyRange(source.descriptor, offset, descriptor, bytes, count);
      bytes += copied;
      write(source.data.subarray(offset + copied, offset + count));
    },
    writeAt,
    hash: () => hashOf(descriptor),
  };
}

/**
 * Lets a file that is mapped be copied from while something is written.
 * @throws DebloatError when it cannot be opened
 */
export function withOpened<Result>(path: string, use: (descriptor: number) => Result): Result {
  let descriptor: number;
  try {
    descriptor = openSync(path, "r");
  } catch (cause) {
    throw asDebloatError(cause, path);
  }
  try {
    return use(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

/** What a failure of the file system means for a file; other errors stay as they are. */
export function asDebloatError(cause: unknown, path: string): unknown {
  const { code } = cause as { code?: unknown };
  if (typeof code !== "string" || cause instanceof DebloatError) return cause;
  const [reason, fix] = causes.get(code) ?? [
    `the system says ${code}`,
    "see that the path is right and the disk is well.",
  ];
  return new DebloatError(path, reason, fix, { cause });
}

const causes = new Map<string, readonly [string, string]>([
  ["ENOSPC", ["the disk is full", "free some room, or write elsewhere."]],
  ["EDQUOT", ["the disk quota is used up", "free some room, or write elsewhere."]],
  ["EFBIG", ["the file system takes no file of this size", "write elsewhere."]],
  ["EACCES", ["it may not be read or written", "change its permissions, or use another path."]],
  ["EPERM", ["it may not be read or written", "change its permissions, or use another path."]],
  ["EROFS", ["its file system is read-only", "write elsewhere."]],
  ["ENOENT", ["it does not exist", "check the path."]],
  ["ENOTDIR", ["a part of its path is no folder", "check the path."]],
  ["EISDIR", ["it is a folder", "name a file."]],
  ["EEXIST", ["another run is writing it", "wait for it, or remove the .part file beside it."]],
]);

/**
 * Maps a file for reading.
 * @throws DebloatError when it is not there, is empty, or cannot be read
 */
export function mapFile(path: string): { data: Uint8Array; mode: number } {
  requireText("file", path);
  try {
    const { mode, size } = statSync(path);
    if (size === 0) throw new DebloatError(path, "it is empty", "give a shared library.");
    return { data: mapReadOnly(path), mode: mode & 0o7777 };
  } catch (cause) {
    throw asDebloatError(cause, path);
  }
}

/** SHA-256 of a file in hex, read in pieces: mapped, all of it would count as memory in use. */
export function hashFile(file: string): string {
  const descriptor = openSync(file, "r");
  try {
    return hashOf(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

function hashOf(descriptor: number): string {
  const hasher = new Bun.CryptoHasher("sha256");
  const piece = new Uint8Array(2 ** 20);
  for (let at = 0; ;) {
    const bytes = readSync(descriptor, piece, 0, piece.length, at);
    if (bytes === 0) return hasher.digest("hex");
    hasher.update(piece.subarray(0, bytes));
    at += bytes;
  }
}

/**
 * Whether two paths name one file.
 * @throws DebloatError when a part of a path is no folder
 */
export function isSameFile(a: string, b: string): boolean {
  const [first, second] = [a, b].map((path) => {
    requireText("file", path);
    try {
      return statSync(path, { throwIfNoEntry: false });
    } catch (cause) {
      throw asDebloatError(cause, path);
    }
  });
  if (first === undefined || second === undefined) return false;
  return first.ino === second.ino && first.dev === second.dev;
}
