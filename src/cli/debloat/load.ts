/** Opens one library and ends: what its constructors do happens in a process of its own. */
import { openNow } from "../../ffi/loader.ts";

/** This file, for a process to be started with. */
export const loadProgram = import.meta.path;

if (import.meta.main) {
  const problem = openNow(process.argv[2]);
  if (problem !== undefined) process.stderr.write(`${problem}\n`);
  // The destructors of the libraries must not run.
  process.reallyExit(problem === undefined ? 0 : 1);
}
