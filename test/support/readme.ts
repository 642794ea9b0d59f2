import { readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./sources.ts";

/** The README's TypeScript blocks, as printed. */
function readmeSnippets(): string[] {
  const text = readFileSync(join(root, "README.md"), "utf8");
  return [...text.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map(([, code]) => code);
}

/** The first of them: the program that shows what the library is. */
export function readmeProgram(): string {
  return readmeSnippets()[0];
}
