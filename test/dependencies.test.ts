import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { filesOf, root } from "./support/sources.ts";

interface Manifest {
  readonly name: string;
  readonly license: string;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
}

function manifest(path: string): Manifest {
  return JSON.parse(readFileSync(join(root, path), "utf8")) as Manifest;
}

/** Packages that a manifest asks for, at one exact version each. */
function asked({ dependencies, devDependencies }: Manifest): [string, string][] {
  return Object.entries({ ...dependencies, ...devDependencies });
}

const page = readFileSync(join(root, "docs", "dependencies.md"), "utf8");
const rows = [...page.matchAll(/^\| `([^`]+)` +\| ([\w.-]+) +\|/gm)].map(([, ...row]) => row);
const own = asked(manifest("package.json"));

test("docs/dependencies.md names every package, and no other", () => {
  const all = filesOf("**/package.json").flatMap((path) => asked(manifest(path)));
  expect(rows.map(([name]) => name).sort()).toEqual(all.map(([name]) => name).sort());
  expect(all.filter(([, version]) => !/^\d+\.\d+\.\d+$/.test(version))).toEqual([]);
});

test("each has the licence that is said", () => {
  const licences = own.map(([name]) => [
    name,
    manifest(join("node_modules", name, "package.json")).license,
  ]);
  expect(rows).toEqual(expect.arrayContaining(licences));
});
