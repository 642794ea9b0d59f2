/**
 * Formats TypeScript and Zig; with --check it changes nothing and fails on what it would change.
 *
 * Usage: bun run fmt [--check]
 */
import { argumentsOf } from "./arguments.ts";
import { findZig, run } from "./toolchain.ts";

const check = argumentsOf("bun run fmt [--check]", (given) =>
  given.every((argument) => argument === "--check"),
);
const folders = ["src", "test", "bench", "scripts", "examples"];
const typescript = await run([process.execPath, "fmt", ...check, ...folders], true);
const zig = await run([await findZig(), "fmt", ...check, "zig", "build.zig"], true);
process.exitCode = typescript || zig;
