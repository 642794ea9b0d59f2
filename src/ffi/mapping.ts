import { dlopen, toArrayBuffer } from "bun:ffi";
import { closeSync, fstatSync, openSync } from "node:fs";

const readable = 1;
const ownCopy = 2;

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
    return new Uint8Array(toOwnedBuffer(address, 0, size, size, libc().munmap.ptr));
  } finally {
    closeSync(descriptor);
  }
}

function libc() {
  opened ??= dlopen("libc.so.6", {
    mmap: { args: ["u64", "u64", "i32", "i32", "i32", "i64"], returns: "u64" },
    munmap: { args: ["u64", "u64"], returns: "i32" },
  });
  return opened.symbols as unknown as Libc;
}

interface Libc {
  mmap(at: number, size: number, rights: number, kind: number, file: number, from: number): bigint;
  munmap: { ptr: number };
}

/** Its last two arguments are missing from the types of Bun. */
const toOwnedBuffer = toArrayBuffer as unknown as (
  address: number,
  offset: number,
  bytes: number,
  context: number,
  deallocator: number,
) => ArrayBuffer;

let opened: ReturnType<typeof dlopen> | undefined;
