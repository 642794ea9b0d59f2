import { chmodSync, globSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./sources.ts";
import { emulatedLibrary } from "./targets.ts";

/** ThreadSanitizer as `zig build races` makes it. */
export const raceDetector = join(root, "zig-out/lib/librace-detector.so");

/**
 * The environment of a process in which kernels are watched for races, and those that it starts.
 * Their reports go to `folder`. What happens to be ordered hides some races: first come, first
 * served does so most.
 */
export function watchedIn(folder: string, order = "order=greedy"): Record<string, string> {
  const options = [`log_path=${join(folder, "races")}`];
  const symbolizer = ["llvm-symbolizer", "addr2line"].find((name) => Bun.which(name) !== null);
  if (symbolizer !== undefined)
    options.push(`external_symbolizer_path=${wrap(symbolizer, folder)}`);
  return {
    LD_PRELOAD: raceDetector,
    TSAN_OPTIONS: options.join(":"),
    FLASHBUN_LIBCUDA: emulatedLibrary,
    FLASHBUN_EMULATOR: `races,${order}`,
  };
}

/** What names functions and lines for the reports does not run with the detector in it. */
function wrap(symbolizer: string, folder: string): string {
  const path = join(folder, symbolizer);
  writeFileSync(path, `#!/bin/sh\nunset LD_PRELOAD\nexec ${Bun.which(symbolizer)} "$@"\n`);
  chmodSync(path, 0o755);
  return path;
}

/** The reports of all processes that were watched, one after another; "": no race. */
export function reportsIn(folder: string): string {
  return globSync(join(folder, "races.*"))
    .map((path) => readFileSync(path, "utf8"))
    .filter((text) => text.includes("WARNING: ThreadSanitizer"))
    .join("");
}
