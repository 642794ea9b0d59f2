import { dlopen, type Library, toArrayBuffer } from "bun:ffi";
import { closeSync, fstatSync, openSync } from "node:fs";
import { functionAddress } from "./foreign.ts";
import { libcSymbols } from "./symbols.ts";

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
    return new Uint8Array(toOwnedBuffer(address, 0, size, size, functionAddress(libc().munmap)));
  } finally {
    closeSync(descriptor);
  }
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
