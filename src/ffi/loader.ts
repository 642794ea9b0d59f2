import { dlopen } from "bun:ffi";
import { cString } from "./foreign.ts";
import { libcSymbols } from "./symbols.ts";

const rtldNow = 2;

/**
 * Asks the system's loader for a shared library with all its symbols at once (RTLD_NOW); its
 * constructors run, and it stays loaded. Only for a process of its own: what it holds may crash.
 * @returns what the loader says when it cannot, undefined when the library is there
 */
export function openNow(path: string): string | undefined {
  const { symbols: libc } = dlopen("libc.so.6", libcSymbols);
  const handle = libc.dlopen(cString(path), rtldNow);
  return Number(handle) === 0 ? String(libc.dlerror()) : undefined;
}
