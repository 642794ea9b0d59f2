import { dlopen, type FFIFunction } from "bun:ffi";
import { LibraryError } from "../errors.ts";
import { functionAddress } from "./foreign.ts";
import { guarded, type RawFunctions } from "./guard.ts";
import { locate, mainLibrary } from "./locate.ts";
import { FB_ABI_VERSION } from "./params.gen.ts";
import { type Address, type Native, symbols } from "./symbols.ts";

interface Loaded {
  native: Native;
  /** Where the deleter of exported tensors lies. */
  deleter: Address;
  path: string;
}

const key = Symbol.for("flashbun.native");
const holder = globalThis as { [key]?: Loaded };

/** The native functions; the library is opened once per process (hot reloads share it). */
export function native(): Native {
  return (holder[key] ??= open()).native;
}

/** Path of the library that is or would be opened. */
export function libraryPath(): string {
  return holder[key]?.path ?? locate(mainLibrary);
}

/** Address of the native deleter of exported tensors. */
export function exportDeleter(): Address {
  native();
  return holder[key]!.deleter;
}

function open(): Loaded {
  const path = locate(mainLibrary);
  let raw: RawFunctions;
  let deleter: Address;
  try {
    const library = dlopen(path, symbols as Record<string, FFIFunction>).symbols;
    raw = library;
    deleter = functionAddress(library["fb_dlpack_deleter"]);
  } catch (cause) {
    throw new LibraryError(
      `cannot load ${path}: ${(cause as Error).message}. ` +
        "Fix: reinstall flashbun, or point FLASHBUN_LIB at the library of this version.",
      { cause },
    );
  }
  const native = guarded(raw);
  const version = native.fb_abi_version();
  if (version !== FB_ABI_VERSION) {
    throw new LibraryError(
      `${path} speaks ABI version ${version}, this flashbun needs ${FB_ABI_VERSION}. ` +
        "Fix: install flashbun and its platform package in the same version, " +
        "or rebuild the library.",
    );
  }
  return { native, deleter, path };
}
