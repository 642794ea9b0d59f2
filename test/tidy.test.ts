import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { importsOf, root, type Source, sourcesOf } from "./support/sources.ts";

const columnsMax = 100;
const fileLinesMax = 690;
const functionLinesMax = 80;

/** Spelled in two parts, so that this file does not hold them. */
const markers = ["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"];
const markerPattern = new RegExp(`\\b(${markers.join("|")})\\b`);
const machinePaths = new RegExp(
  `(^|[^\\w.])/(${["ho" + "me", "wo" + "rk", "ro" + "ot", "Us" + "ers"].join("|")})/[\\w.]`,
);

/** Files whose lines a generator writes. */
const generated = /\.gen\.ts$/;

/** Every rule's findings as "path:line: what". */
function findings(source: Source): string[] {
  const found: string[] = [];
  const say = (line: number, what: string) => found.push(`${source.path}:${line + 1}: ${what}`);
  if (!generated.test(source.path) && source.lines.length - 1 > fileLinesMax)
    say(0, `${source.lines.length - 1} lines, at most ${fileLinesMax}`);
  const inSource = source.path.startsWith("src/");
  const typescript = source.path.endsWith(".ts");
  source.lines.forEach((line, at) => {
    if (typescript && Bun.stringWidth(line) > columnsMax && !unbreakable(line))
      say(at, `${Bun.stringWidth(line)} columns, at most ${columnsMax}`);
    if (markerPattern.test(line)) say(at, "a note to self");
    if (machinePaths.test(line)) say(at, "a path of some machine");
    if (typescript && usesAny(line)) say(at, "the type any");
    if (inSource && !source.path.startsWith("src/cli/") && /\bconsole\.\w+\(/.test(line))
      say(at, "console");
    if (inSource && isUndocumented(source, at)) say(at, "an export without a sentence about it");
  });
  if (/\.(ts|zig)$/.test(source.path) && !generated.test(source.path)) {
    for (const { line, length } of longFunctions(source.lines))
      say(line, `a function of ${length} lines, at most ${functionLinesMax}`);
  }
  return found;
}

/** A formatter leaves long strings, templates, comments and import lists of one name alone. */
function unbreakable(line: string): boolean {
  return /^\s*(["'`].*["'`][,;)]*|.*["'`][^"'`]{40,}["'`].*|.*`.*|\/\/ eslint.*|\/.*\/[a-z]*[,;]?)$/.test(
    line,
  );
}

function usesAny(line: string): boolean {
  const code = line.replace(/"(?:[^"\\]|\\.)*"|`[^`]*`|\/\/.*$|^\s*\/?\*.*$/g, "");
  return /(?::|\bas|<|\||&|=>|,)\s*any\b(?=\s*(?:[;,)>=|&\]{}[]|$))/.test(code);
}

const exportPattern =
  /^export (?:default |declare )?(?:abstract |async )*(?:function\*?|class|interface|type|const|let|enum) (\w+)/;

function isUndocumented({ path, lines }: Source, at: number): boolean {
  if (generated.test(path) || !exportPattern.test(lines[at])) return false;
  // The second and later signatures of an overload share the first one's sentence.
  const name = exportPattern.exec(lines[at])![1];
  for (let line = at - 1; line >= 0 && line > at - 4; line--)
    if (lines[line].startsWith(`export function ${name}(`)) return false;
  return !/\*\/\s*$/.test(lines[at - 1] ?? "");
}

/** Functions and methods by their indentation, which the formatter guarantees. */
function longFunctions(lines: readonly string[]): { line: number; length: number }[] {
  const found: { line: number; length: number }[] = [];
  const zig = /^(\s*)(?:pub |export |inline |noinline )*fn .*\{$/;
  const opens =
    /^(\s*)(?:export |default |async |static |override |protected |private |public |get |set |\*)*(?:function\b.*|#?\w+(?:<.*>)?\(.*|(?:const|let) \w+.*=> )\{$|^(\s*)\).*\{$/;
  const statement =
    /^\s*(?:\} )?(?:if|for|while|switch|else|do|try|catch|return|describe|test|it)\b/;
  for (let start = 0; start < lines.length; start++) {
    const match = zig.exec(lines[start]) ?? opens.exec(lines[start]);
    if (match === null || statement.test(lines[start])) continue;
    const indent = match[1] ?? match[2];
    const end = lines.findIndex((line, at) => at > start && line.startsWith(`${indent}}`));
    const length = end - start + 1;
    if (length > functionLinesMax && !/^(\s*)(describe|test|it)\b/.test(opener(lines, start)))
      found.push({ line: start, length });
  }
  return found;
}

/** The line where the statement of a line that only closes a parameter list began. */
function opener(lines: readonly string[], at: number): string {
  if (!/^\s*\)/.test(lines[at])) return lines[at];
  const indent = /^\s*/.exec(lines[at])![0];
  let line = at - 1;
  while (
    line > 0 &&
    !(lines[line].startsWith(indent) && /^\S/.test(lines[line].slice(indent.length)))
  )
    line--;
  return lines[line];
}

/** Files of src that neither the package's door nor the command line reaches. */
function unreached(sources: readonly Source[], doors: readonly string[]): string[] {
  const byPath = new Map(sources.map((source) => [source.path, source]));
  const seen = new Set<string>();
  const queue = doors.filter((door) => byPath.has(door));
  while (queue.length > 0) {
    const path = queue.pop()!;
    if (seen.has(path)) continue;
    seen.add(path);
    for (const name of importsOf(byPath.get(path)!)) if (byPath.has(name)) queue.push(name);
  }
  return sources.map(({ path }) => path).filter((path) => !seen.has(path));
}

function sourceOf(path: string, text: string): Source {
  return { path, text, lines: text.split("\n") };
}

describe("the house is tidy", () => {
  test("columns, lengths, words, types and sentences", () => {
    const code = sourcesOf(
      "{src,test,bench,scripts,examples}/**/*.ts",
      "{zig,kernels}/**/*.{zig,h,cu,cuh}",
      "build.zig",
    );
    expect(code.flatMap(findings)).toEqual([]);
  });

  test("no page names a machine or keeps a note to self", () => {
    const pages = sourcesOf("*.md", "docs/**/*.md", "*.json", "*.toml", ".ci/*");
    expect(pages.flatMap(findings)).toEqual([]);
  });

  test("no file of src is dead", () => {
    const doors = ["src/index.ts", "src/debloat/index.ts", "src/cli/main.ts"];
    expect(doors.filter((door) => !existsSync(join(root, door)))).toEqual([]);
    expect(unreached(sourcesOf("src/**/*.ts"), doors)).toEqual([]);
  });

  test("the lock file names no registry", async () => {
    expect(await Bun.file(join(root, "bun.lock")).text()).not.toContain("://");
  });
});

describe("the rules see", () => {
  const cases: [string, string, string, RegExp][] = [
    ["long lines", "src/kv/x.ts", `const x = ${"y + ".repeat(30)}1;`, /columns, at most 100/],
    ["long files", "src/kv/x.ts", "\n".repeat(691), /691 lines/],
    ["notes to self", "zig/x.zig", `// ${markers[0]}: later`, /note to self/],
    ["machine paths", "docs/x.md", `see ${"/ho"}me/someone/x`, /path of some machine/],
    ["any", "test/x.ts", "let x: any = 1;", /type any/],
    ["any in generics", "test/x.ts", "const x = new Map<string, any>();", /type any/],
    ["any casts", "test/x.ts", "f(x as any);", /type any/],
    ["console", "src/kv/x.ts", `console.log("x");`, /console/],
    ["exports without a sentence", "src/kv/x.ts", "\nexport class Foo {}", /without a sentence/],
    [
      "long functions",
      "src/kv/x.ts",
      `/** Doc. */\nexport function f(\n  a: number,\n): void {\n${"  a++;\n".repeat(80)}}`,
      /a function of 82 lines/,
    ],
    [
      "long native functions",
      "zig/x.zig",
      `fn f() void {\n${"    a();\n".repeat(80)}}`,
      /82 lines/,
    ],
    [
      "long methods",
      "src/kv/x.ts",
      `/** Doc. */\nexport class A {\n  async #run(): Promise<void> {\n${"    a++;\n".repeat(80)}  }\n}`,
      /a function of 82 lines/,
    ],
  ];
  test.each(cases)("%s", (_, path, text, message) => {
    expect(findings(sourceOf(path, text))).toEqual([expect.stringMatching(message)]);
  });

  test("nothing wrong in what is right", () => {
    const text = [
      "/** Doc. */",
      "export const company = 1; // any of them",
      `/** Doc. */\nexport function f(many: number): string {\n  return "as any, console";\n}`,
    ].join("\n");
    expect(findings(sourceOf("src/kv/x.ts", text))).toEqual([]);
  });

  test("dead files", () => {
    const sources = [
      sourceOf("src/index.ts", `export { a } from "./kv/a.ts";`),
      sourceOf("src/kv/a.ts", `import type { B } from "./b.ts";`),
      sourceOf("src/kv/b.ts", ""),
      sourceOf("src/kv/dead.ts", `import { a } from "./a.ts";`),
    ];
    expect(unreached(sources, ["src/index.ts", "src/cli/main.ts"])).toEqual(["src/kv/dead.ts"]);
  });
});
