/**
 * Writes src/ffi/params.gen.ts, the packers of the structs in kernels/params.h.
 *
 * Usage: bun run abi
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { findZig, root } from "./toolchain.ts";

const command = [await findZig(), "build", "abi"];
const build = Bun.spawnSync(command, { cwd: root, stdio: ["ignore", "pipe", "inherit"] });
if (build.exitCode !== 0) process.exit(build.exitCode);
writeFileSync(join(root, "src", "ffi", "params.gen.ts"), build.stdout);
