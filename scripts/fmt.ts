/**
 * Formats TypeScript and Zig; with --check it changes nothing and fails on what it would change.
 *
 * Usage: bun run fmt [--check]
 */
import { findZig, run } from "./toolchain.ts";

const check = process.argv.slice(2).includes("--check") ? ["--check"] : [];
const folders = ["src", "test", "bench", "scripts", "examples"];
const typescript = await run([process.execPath, "fmt", ...check, ...folders], true);
const zig = await run([await findZig(), "fmt", ...check, "zig", "build.zig"], true);
process.exitCode = typescript || zig;
