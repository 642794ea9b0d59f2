import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import ts from "typescript";
import { doors } from "../scripts/doors.ts";
import { typedoc } from "../scripts/docs.ts";
import * as variants from "../src/variant/library.ts";
import { calls } from "./api/calls.ts";
import { filesOf, root } from "./support/sources.ts";

/** What TypeDoc's JSON holds of a name, as far as this test looks. */
interface Reflection {
  readonly name: string;
  /** "reference" for what another door exports too, and documents. */
  readonly variant: string;
  readonly comment?: { readonly summary: readonly { readonly text: string }[] };
  readonly children?: readonly Reflection[];
  readonly signatures?: readonly Reflection[];
  /** TypeDoc's number of what it is. */
  readonly kind: number;
  readonly flags?: { readonly isStatic?: boolean };
}

/** Of {@link Reflection}. */
const kinds = { namespace: 4, function: 64, class: 128, method: 2048, accessor: 262144 };

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
    expect(own.length).toBeGreaterThan(0);
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

/** Public functions, methods and accessors, as test/api/calls.ts names them. */
function callsIn({ name, kind, children = [] }: Reflection): string[] {
  if (kind === kinds.function) return [name];
  if (kind === kinds.namespace) return children.flatMap(callsIn).map((call) => `${name}.${call}`);
  // Values of hooks are called in hooks, errors and what a Device extends are not called.
  const apart = /^(F32|I32|Bool|VariantTensor|Context|\w+Error)$/.test(name);
  if (kind !== kinds.class || apart) return [];
  return children
    .filter((member) => [kinds.method, kinds.accessor].includes(member.kind))
    .filter((member) => member.name !== "[asyncDispose]")
    .map((member) => `${name}${member.flags?.isStatic === true ? "." : "#"}${member.name}`);
}

test("the fuzz test calls every public function, method and accessor", () => {
  const own = modules.flatMap(({ children = [] }) => children);
  // Constructors, a function in a property, and a class of which only the type is exported.
  const others = /^new |^Memory#|#worthSharing$/;
  const fuzzed = Object.keys(calls).filter((name) => !others.test(name));
  // It fetches; or what answers is other processes, with whom test/comm calls them.
  const elsewhere = /^fetchSmolLm2$|^Communicator|^mergeRanks$|^Engine#(follow|lost)$/;
  const listed = own.flatMap(callsIn).filter((name) => !elsewhere.test(name));
  expect(fuzzed.sort()).toEqual([...new Set(listed)].sort());
});

test("the pages of docs/ are part of it", () => {
  const pages = filesOf("docs/*.md").map((path) => path.replace("/", "_").replace(".md", ".html"));
  expect(pages.length).toBeGreaterThan(5);
  expect(readdirSync(join(folder, "api", "documents"))).toEqual(expect.arrayContaining(pages));
});
