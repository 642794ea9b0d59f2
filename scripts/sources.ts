/**
 * Writes src/jit/sources.gen.ts: every file under kernels/ as text, so that run-time compilation
 * works from the package and from one compiled executable.
 *
 * Usage: bun scripts/sources.ts
 */
import { globSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dir, "..");

/** The generated file's text for these files below kernels/. */
export function sourcesModule(paths: readonly string[]): string {
  const sorted = [...paths].sort();
  // Names by path, so that a file more is two lines more.
  const nameOf = (path: string) => path.replace(/\W/g, "_");
  const imports = sorted.map(
    (path) => `import ${nameOf(path)} from "../../kernels/${path}" with { type: "text" };\n`,
  );
  const entries = sorted.map((path) => `  "${path}": ${nameOf(path)},\n`);
  return [
    "// Written by `bun run sources`: do not edit.\n",
    '/// <reference path="./text.d.ts" />\n',
    ...imports,
    "\n/** Text of every kernel source and header, by its path below kernels/. */\n",
    `export const sources: Readonly<Record<string, string>> = {\n${entries.join("")}};\n`,
  ].join("");
}

/** Files below kernels/ that take part in a compilation. */
export function kernelFiles(): string[] {
  return globSync("**/*.{cu,h}", { cwd: join(root, "kernels") });
}

if (import.meta.main)
  writeFileSync(join(root, "src", "jit", "sources.gen.ts"), sourcesModule(kernelFiles()));
