import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import ts from "typescript";
import { typedoc } from "../scripts/docs.ts";
import * as variants from "../src/variant/library.ts";
import { filesOf, root } from "./support/sources.ts";

/** What TypeDoc's JSON holds of a name, as far as this test looks. */
interface Reflection {
  readonly name: string;
  /** "reference" for what another door exports too, and documents. */
  readonly variant: string;
  readonly comment?: { readonly summary: readonly { readonly text: string }[] };
  readonly children?: readonly Reflection[];
  readonly signatures?: readonly Reflection[];
}

const doors: Readonly<Record<string, string>> = {
  flashbun: "src/index.ts",
  "flashbun/debloat": "src/debloat/index.ts",
};
let folder: string;
let modules: readonly Reflection[];

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "flashbun-docs-"));
  const json = join(folder, "api.json");
  const { exitCode, stdout, stderr } = Bun.spawnSync(
    [...typedoc, "--out", join(folder, "api"), "--json", json],
    { cwd: root },
  );
  if (exitCode !== 0) throw new Error(`typedoc exited with ${exitCode}:\n${stdout}${stderr}`);
  modules = (JSON.parse(readFileSync(json, "utf8")) as Reflection).children!;
}, 300_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Names that a file exports, types too, as TypeScript's compiler resolves them. */
function exportsOf(path: string): string[] {
  const file = join(root, path);
  const program = ts.createProgram([file], {
    allowImportingTsExtensions: true,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    module: ts.ModuleKind.Preserve,
    noEmit: true,
    noLib: true,
    types: [],
  });
  const checker = program.getTypeChecker();
  const symbol = checker.getSymbolAtLocation(program.getSourceFile(file)!)!;
  return checker.getExportsOfModule(symbol).map(({ name }) => name);
}

/** A name's sentence; a function's stands at its first signature. */
function sentence({ comment, signatures }: Reflection): string {
  const { summary = [] } = comment ?? signatures?.[0].comment ?? {};
  return summary.map(({ text }) => text).join("");
}

/** Whether a page of this reflection was written, whatever its kind's folder. */
function hasPage(name: string): boolean {
  const file = `${name.replaceAll("/", "_")}.html`;
  const folders = ["classes", "functions", "interfaces", "modules", "types", "variables"];
  return folders.some((kind) => existsSync(join(folder, "api", kind, file)));
}

describe.each(Object.entries(doors))("the reference of %s", (door, path) => {
  const all = () => modules.find(({ name }) => name === door)!.children!;

  test("has every public name, and no other", () => {
    const documented = all().map(({ name }) => name);
    expect(documented.sort()).toEqual(exportsOf(path).sort());
  });

  test("says of each what it is, on a page of its own", () => {
    const own = all().filter(({ variant }) => variant !== "reference");
    expect(own.length).toBeGreaterThan(10);
    const silent = own.filter((child) => !/\w{2}/.test(sentence(child)));
    // What a namespace is, the sentences of its members say.
    expect(silent.map(({ name }) => name)).toEqual(door === "flashbun" ? ["variants"] : []);
    const lost = own.filter(({ name }) => !hasPage(`${door}.${name}`));
    expect(lost.map(({ name }) => name)).toEqual([]);
  });
});

test("every variant of the library has its page and sentence", () => {
  const { children } = modules.find(({ name }) => name === "flashbun")!;
  const namespace = children!.find(({ name }) => name === "variants")!;
  const names = namespace.children!.map(({ name }) => name);
  expect(names).toEqual(expect.arrayContaining(Object.keys(variants)));
  expect(namespace.children!.filter((child) => !/\w{2}/.test(sentence(child)))).toEqual([]);
  expect(names.filter((name) => !hasPage(`flashbun.variants.${name}`))).toEqual([]);
});

test("the pages of docs/ are part of it", () => {
  const pages = filesOf("docs/*.md").map((path) => path.replace("/", "_").replace(".md", ".html"));
  expect(pages.length).toBeGreaterThan(5);
  expect(readdirSync(join(folder, "api", "documents"))).toEqual(expect.arrayContaining(pages));
});
