/**
 * Writes src/jit/sources.gen.ts: every file under kernels/ as text, so that run-time compilation
 * works from the package and from one compiled executable; and src/other-runtime.gen.js, which Node
 * and Deno get in place of the package's doors.
 *
 * Usage: bun scripts/sources.ts
 */
import { globSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { engines } from "../package.json";
import { argumentsOf } from "./arguments.ts";
import { doors } from "./doors.ts";

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

/**
 * A module that says what flashbun needs. It exports every name, since an import of a missing one
 * fails before the module says a word.
 */
export function otherRuntimeModule(names: readonly string[]): string {
  const bun = `Bun ${engines.bun.slice(2)} or later`;
  const sorted = [...new Set(names)].sort();
  return [
    "// Written by `bun run sources`: do not edit.\n",
    `export let ${sorted.join(",\n  ")};\n`,
    `throw new Error("flashbun needs ${bun}: run this program with bun.");\n`,
  ].join("");
}

/** Names of values that the package's doors export. */
export async function exportedNames(): Promise<string[]> {
  const modules = await Promise.all(Object.values(doors).map((path) => import(join(root, path))));
  return modules.flatMap((door) => Object.keys(door as object));
}

/** Files below kernels/ that take part in a compilation. */
export function kernelFiles(): string[] {
  return globSync("**/*.{cu,h}", { cwd: join(root, "kernels") });
}

if (import.meta.main) {
  argumentsOf("bun run sources");
  writeFileSync(join(root, "src", "jit", "sources.gen.ts"), sourcesModule(kernelFiles()));
  const otherRuntime = otherRuntimeModule(await exportedNames());
  writeFileSync(join(root, "src", "other-runtime.gen.js"), otherRuntime);
}
