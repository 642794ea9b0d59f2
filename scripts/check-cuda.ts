/**
 * Checks what of the CUDA kernels needs a compiler and no GPU.
 *
 * Usage: bun run check:cuda [arguments of bun test]
 */
import { join } from "node:path";
import { testArguments } from "./arguments.ts";
import { inTurn } from "./check.ts";
import { setup } from "./setup.ts";
import { bunTest } from "./test.ts";
import { findNvcc, findZig, root } from "./toolchain.ts";

const given = testArguments("check:cuda");
await setup();
const zig = await findZig();
await findNvcc();
const withImages = join(root, "zig-out", "cuda");
process.env["FLASHBUN_LIB"] = join(withImages, "lib", "libflashbun.so");
const build = [zig, "build", "-Dcuda=true", `-Dbun=${process.execPath}`, "--prefix", withImages];
const test = [...bunTest, ...given];
const binaries = ["fatbin/matrix", "fatbin/linked", "shrink/real-library"].map(
  (name) => `test/debloat/${name}.test.ts`,
);
process.exitCode = await inTurn([
  ["kernels by nvcc, embedded in the library", build],
  ["kernels", [...test, "./test/jit/matrix.check.ts"]],
  ["fat binaries of nvcc", [...test, ...binaries]],
]);
