/**
 * Writes docs/api/index.html and the pages below it: the API reference, from the sentences above
 * every export, with the pages of docs/ beside it. Errors are links that lead nowhere, and types in
 * public signatures that are neither exported nor named as internal in typedoc.json. Git ignores
 * the folder, and the package goes without: its declarations hold the same sentences.
 *
 * Usage: bun run docs [arguments of typedoc]
 */
import { join } from "node:path";
import { installPackages } from "./setup.ts";
import { root, run } from "./toolchain.ts";

/** The command that writes them as typedoc.json says. */
export const typedoc = [process.execPath, join(root, "node_modules", "typedoc", "bin", "typedoc")];

if (import.meta.main) {
  await installPackages();
  process.exitCode = await run([...typedoc, ...process.argv.slice(2)], true);
}
