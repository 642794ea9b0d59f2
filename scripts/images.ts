/**
 * Compiles the matrix with nvcc and writes what the library embeds; `zig build -Dcuda=true` runs
 * it. A kernel that spills, keeps a stack or is serialised fails it.
 *
 * Usage: bun scripts/images.ts <blob> | --table
 *   <blob>   writes the images there
 *   --table  writes docs/kernel-resources.md
 */
import { mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { packImages } from "../src/jit/embedded.ts";
import { argumentsOf } from "./arguments.ts";
import { architectures, matrixOf } from "./matrix.ts";
import { type Compiled, compileWithNvcc, imagesFolder } from "./nvcc.ts";
import { findNvcc, root } from "./toolchain.ts";

/** Compiles the whole matrix, one nvcc a core. Throws what is wrong with any entry. */
export async function compileMatrix(): Promise<Compiled[]> {
  const nvcc = await findNvcc();
  const jobs = architectures.flatMap((architecture) =>
    matrixOf(architecture).map((entry) => () => compileWithNvcc(nvcc, entry, architecture)),
  );
  const compiled: Compiled[] = [];
  let next = 0;
  const worker = async () => {
    for (let at = next++; at < jobs.length; at = next++) compiled[at] = await jobs[at]();
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  const faults = compiled.flatMap(({ entry, architecture, faults }) =>
    faults.map((fault) => `${entry.name} (${entry.source}, ${architecture}): ${fault}`),
  );
  if (faults.length > 0) throw new Error(`kernels that must not be shipped:\n${faults.join("\n")}`);
  return compiled;
}

/** The page of registers and shared memory, a row per kernel and architecture. */
export function resourcesPage(compiled: readonly Compiled[]): string {
  const rows = compiled.flatMap(({ entry, architecture, bytes, kernels }) =>
    kernels.map(({ kernel, registers, staticSharedBytes }) => [
      entry.name,
      `\`${kernel}\``,
      architecture,
      `${registers}`,
      `${staticSharedBytes}`,
      `${entry.constants["FB_SHARED_BYTES"] ?? 0}`,
      (bytes.length / 1024).toFixed(1),
    ]),
  );
  const head = ["Entry", "Kernel", "Architecture", "Registers", "Static shared bytes"];
  head.push("Dynamic shared bytes", "Image, KiB");
  const table = [head, head.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`);
  return [
    "# Registers and shared memory of the kernels",
    "",
    "What ptxas 13.0 says of each kernel that `zig build -Dcuda=true` embeds. None spills or",
    "keeps a stack: the build fails on one that does. `bun run check:cuda` compares this page with",
    "the compiler's log; `bun scripts/images.ts --table` writes it anew.",
    "",
    ...table,
    "",
  ].join("\n");
}

/** Removes what older sources were compiled to. */
function removeOthers(compiled: readonly Compiled[]): void {
  const hashes = new Set(compiled.map(({ hash }) => hash));
  for (const name of readdirSync(imagesFolder))
    if (/^[0-9a-f]{64}\./.test(name) && !hashes.has(name.slice(0, 64)))
      rmSync(join(imagesFolder, name), { force: true });
}

if (import.meta.main) {
  const [output] = argumentsOf(
    "bun scripts/images.ts <blob> | --table",
    ([first = "-", ...more]) => more.length === 0 && (first === "--table" || !/^-/.test(first)),
  );
  const compiled = await compileMatrix();
  if (output === "--table") {
    writeFileSync(join(root, "docs", "kernel-resources.md"), resourcesPage(compiled));
  } else {
    mkdirSync(dirname(output), { recursive: true });
    const images = compiled.map(({ entry, architecture, hash, bytes }) => ({
      hash,
      bytes,
      label: `${entry.name}, ${architecture}`,
    }));
    writeFileSync(output, packImages(images));
    removeOthers(compiled);
  }
}
