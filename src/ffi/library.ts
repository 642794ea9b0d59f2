import { type ConvertFns, dlopen, ptr, toArrayBuffer } from "bun:ffi";
import { LibraryError, OptionError } from "../errors.ts";
import { locate, mainLibrary } from "./locate.ts";
import { FB_ABI_VERSION } from "./params.gen.ts";
import { symbols } from "./symbols.ts";

/** The library's functions, typed by the symbol table. */
export type Native = ConvertFns<typeof symbols>;

/** An address in native memory, as a number below 2^53. */
export type Address = number;

interface Loaded {
  native: Native;
  path: string;
}

const key = Symbol.for("flashbun.native");
const holder = globalThis as { [key]?: Loaded };

/** The native functions; opens the library on first use, once a process (hot reloads share it). */
export function native(): Native {
  return (holder[key] ??= open()).native;
}

/** Path of the library that is or would be opened. */
export function libraryPath(): string {
  return holder[key]?.path ?? locate(mainLibrary);
}

/**
 * Address of a view's first byte, for the length of one call. Memory whose address must outlive a
 * call has to be native or an `ArrayBuffer` of explicit size: small typed arrays move.
 */
export function addressOf(view: ArrayBufferView | ArrayBuffer): Address {
  if (view.byteLength === 0)
    throw new OptionError("view", view, "not empty or detached", "pass data.");
  const address = ptr(view as Uint8Array) as unknown;
  if (typeof address !== "number")
    throw new OptionError("view", view, "attached", "pass live data.");
  return address;
}

/**
 * Native memory as an ArrayBuffer that borrows it: it must not be used after the memory is freed.
 */
export function borrow(address: Address, byteLength: number): ArrayBuffer {
  return toArrayBuffer(address as never, 0, byteLength);
}

function open(): Loaded {
  const path = locate(mainLibrary);
  let library: { symbols: Native };
  try {
    library = dlopen(path, symbols) as unknown as { symbols: Native };
  } catch (cause) {
    throw new LibraryError(
      `cannot load ${path}: ${(cause as Error).message}. ` +
        "Fix: reinstall flashbun, or point FLASHBUN_LIB at the library of this version.",
      { cause },
    );
  }
  const version = library.symbols.fb_abi_version();
  if (version !== FB_ABI_VERSION) {
    throw new LibraryError(
      `${path} speaks ABI version ${version}, this flashbun needs ${FB_ABI_VERSION}. ` +
        "Fix: install flashbun and its platform package in the same version, or rebuild the library.",
    );
  }
  return { native: library.symbols, path };
}
