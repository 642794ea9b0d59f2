/**
 * Writes what TypeScript knows of the structs of kernels/params: packers, and the offsets of
 * records. `zig build abi` prints them by reflection over the headers.
 *
 * Usage: bun run abi
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { argumentsOf } from "./arguments.ts";
import { findZig, root } from "./toolchain.ts";

/** The files that `zig build abi` printed, by path; a line "// file <path>" begins each. */
export function abiFiles(printed: string): Map<string, string> {
  const [before, ...parts] = printed.split(/^\/\/ file (.+)\n/m);
  if (before !== "" || parts.length === 0) throw new Error("zig build abi printed no files");
  const files = new Map<string, string>();
  for (let i = 0; i < parts.length; i += 2) files.set(parts[i], parts[i + 1]);
  return files;
}

if (import.meta.main) {
  argumentsOf("bun run abi");
  const zig = await findZig();
  const { exitCode, stdout } = Bun.spawnSync([zig, "build", "abi"], {
    cwd: root,
    stderr: "inherit",
  });
  if (exitCode !== 0) process.exit(exitCode);
  for (const [path, text] of abiFiles(stdout.toString())) writeFileSync(join(root, path), text);
}
