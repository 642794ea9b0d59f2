import { type Address } from "./library.ts";
import { dlopen } from "bun:ffi";

const rtldNow = 2;

/**
 * Asks the system's loader for a shared library with all its symbols at once (RTLD_NOW); its
 * constructors run, and it stays loaded. Only for a process of its own: what it holds may crash.
 * @returns what the loader says when it cannot, undefined when the library is there
 */
export function openNow(path: string): string | undefined {
  const { symbols: libc } = dlopen("libc.so.6", {
    dlopen: { args: ["cstring", "int"], returns: "u64" },
    dlerror: { args: [], returns: "cstring" },
  });
  const name = Buffer.from(`${path}\0`);
  const handle = libc.dlopen(name as never, rtldNow) as unknown as bigint | Address;
  return Number(handle) === 0 ? String(libc.dlerror()) : undefined;
}
