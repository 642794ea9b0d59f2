/** Programs in C and assembly for tests that need a process of their own. */
import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { zig } from "./make-library.ts";

/** Folder of their sources. */
export const programs = join(import.meta.dir, "programs");

/** Compiles one of them; more arguments are the compiler's. */
export async function compile(path: string, source: string, ...flags: string[]): Promise<string> {
  mkdirSync(dirname(path), { recursive: true });
  const target = ["-target", "x86_64-linux-gnu.2.28", "-O1", "-fno-sanitize=all"];
  await zig("cc", ...target, "-o", path, join(programs, source), "-lpthread", "-ldl", ...flags);
  return path;
}

/** Compiles a source into a shared library of that name. */
export async function compileLibrary(path: string, source: string, soname: string) {
  const flags = ["-shared", "-fPIC", `-Wl,-soname,${soname}`, "-Wl,--build-id=sha1"];
  return await compile(path, source, ...flags);
}
