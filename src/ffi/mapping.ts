import { dlopen, type Library, ptr, toArrayBuffer } from "bun:ffi";
import { closeSync, fstatSync, openSync } from "node:fs";
import { functionAddress } from "./foreign.ts";
import { libcSymbols } from "./symbols.ts";

const readable = 1;
const ownCopy = 2;
const notNeeded = 4;
/** At least a page of any machine. */
const pageBytes = 65_536;

/**
 * Maps a file for reading; the mapping ends with the last view of it. `Bun.mmap` opens files for
 * writing: it refuses those that one may only read, and a mapped program cannot be started.
 * @returns the file's bytes, not to be written to; a file without any gives no bytes
 * @throws an error of the file system
 */
export function mapReadOnly(path: string): Uint8Array {
  const descriptor = openSync(path, "r");
  try {
    const facts = fstatSync(descriptor);
    if (facts.isDirectory())
      throw Object.assign(new Error(`EISDIR: ${path} is a folder`), { code: "EISDIR" });
    const { size } = facts;
    if (size === 0) return new Uint8Array();
    const address = Number(libc().mmap(0, size, readable, ownCopy, descriptor, 0));
    if (address > Number.MAX_SAFE_INTEGER) {
      const message = `${path} cannot be mapped: no address space is left for ${size} bytes`;
      throw Object.assign(new Error(message), { code: "ENOMEM" });
    }
    // munmap(address, size) has the shape of a deallocator: the memory, and a context.
    const buffer = toOwnedBuffer(address, 0, size, size, functionAddress(libc().munmap));
    mapped.add(buffer);
    return new Uint8Array(buffer);
  } finally {
    closeSync(descriptor);
  }
}

/** What is mapped: other memory would lose what it holds. */
const mapped = new WeakSet<ArrayBufferLike>();

/**
 * Gives the memory of whole pages of a mapped file back; they are read again when they are needed.
 * Of bytes that `mapReadOnly` did not give, nothing happens.
 */
export function releasePages({ buffer, byteOffset, byteLength }: Uint8Array): void {
  if (!mapped.has(buffer)) return;
  const start = pageBytes * Math.ceil(byteOffset / pageBytes);
  let end = byteOffset + byteLength;
  if (end < buffer.byteLength) end = pageBytes * Math.floor(end / pageBytes);
  if (end > start) libc().madvise(ptr(buffer) + start, end - start, notNeeded);
}

/**
 * Copies a run of one open file into another without reading it into this process; file systems
 * that can let both share it.
 * @returns how many bytes it was: fewer where the system cannot copy so
 */
export function copyRange(
  from: number,
  offset: number,
  to: number,
  at: number,
  bytes: number,
): number {
  const offsets = BigInt64Array.of(BigInt(offset), BigInt(at));
  const [source, target] = [offsets, offsets.subarray(1)];
  for (let done = 0; done < bytes;) {
    const left = bytes - done;
    const copied = Number(libc().copy_file_range(from, source, to, target, left, 0));
    if (copied <= 0) return done;
    done += copied;
  }
  return bytes;
}

function libc() {
  return (opened ??= dlopen("libc.so.6", libcSymbols)).symbols;
}

/** Its last two arguments are missing from the types of Bun. */
const toOwnedBuffer = toArrayBuffer as unknown as (
  address: number,
  offset: number,
  bytes: number,
  context: number,
  deallocator: number,
) => ArrayBuffer;

let opened: Library<typeof libcSymbols> | undefined;
