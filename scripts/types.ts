/**
 * Writes types/, the declarations that a user's tsc reads instead of our sources: it would check
 * `.ts` files under the user's own flags, and declarations it takes as they are.
 *
 * Usage: bun scripts/types.ts
 */
import { globSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { argumentsOf } from "./arguments.ts";
import { doors } from "./doors.ts";

const root = join(import.meta.dir, "..");
const types = join(root, "types");

/** Built-in types that declarations use and a target such as es2022 does not bring. */
const libraries = ["esnext.disposable", "esnext.float16"];

argumentsOf("bun scripts/types.ts");
rmSync(types, { recursive: true, force: true });
const compiler = join(root, "node_modules", "typescript", "bin", "tsc");
const { exitCode } = Bun.spawnSync([process.execPath, compiler, "-p", "tsconfig.types.json"], {
  cwd: root,
  stdio: ["ignore", "inherit", "inherit"],
});
if (exitCode !== 0) process.exit(exitCode);

for (const name of globSync("**/*.d.ts", { cwd: types })) {
  const path = join(types, name);
  let text = readFileSync(path, "utf8")
    // Every resolution mode finds ./x.d.ts behind "./x.js"; not every one behind "./x.ts".
    .replace(/((?:from|import\()\s*"\.[^"]*)\.ts"/g, '$1.js"');
  if (Object.values(doors).includes(`src/${name.replace(/\.d\.ts$/, ".ts")}`)) {
    text = libraries.map((lib) => `/// <reference lib="${lib}" />\n`).join("") + text;
  }
  writeFileSync(path, text);
}
