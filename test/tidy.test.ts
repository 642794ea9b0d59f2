import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { doors } from "../scripts/doors.ts";
import { importsOf, root, type Source, sourcesOf } from "./support/sources.ts";

const columnsMax = 100;
const functionLinesMax = 80;

/** Lines that a file may have, by where it is. */
const fileLinesMax: [where: RegExp, lines: number][] = [
  [/^src\//, 320],
  [/^(test|bench|scripts|examples)\//, 550],
  [/^(zig\/|build\.zig$)/, 500],
  [/^kernels\//, 600],
];

/** Spelled in two parts, so that this file does not hold them. */
const markers = ["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"];
const markerPattern = new RegExp(`\\b(${markers.join("|")})\\b`);
const machinePaths = new RegExp(
  `(^|[^\\w.])/(${["ho" + "me", "wo" + "rk", "ro" + "ot", "Us" + "ers"].join("|")})/[\\w.]`,
);

/** Files whose lines a generator writes. */
const generated = /\.gen\.[jt]s$/;

/** Spreads of literals, which say nothing that their parts would not say themselves. */
const packsLiteral = /^\s*\.\.\.(\{( .*\},?)?|\[.*\],?|\(\[.*\] as const\),?)$/;

/** Every rule's findings as "path:line: what". */
function findings(source: Source): string[] {
  const found: string[] = [];
  const say = (line: number, what: string) => found.push(`${source.path}:${line + 1}: ${what}`);
  const length = source.lines.length - 1;
  const most = fileLinesMax.find(([where]) => where.test(source.path))?.[1] ?? Infinity;
  if (length > most && !generated.test(source.path)) say(0, `${length} lines, at most ${most}`);
  if (!generated.test(source.path))
    for (const { line, columns } of wideLines(source))
      say(line, `${columns} columns, at most ${columnsMax}`);
  const inSource = source.path.startsWith("src/");
  const typescript = source.path.endsWith(".ts");
  source.lines.forEach((line, at) => {
    if (markerPattern.test(line)) say(at, "a note to self");
    if (machinePaths.test(line)) say(at, "a path of some machine");
    if (typescript && usesAny(line)) say(at, "the type any");
    if (typescript && packsLiteral.test(line)) say(at, "a literal spread into another");
    if (inSource && !source.path.startsWith("src/cli/") && /\bconsole\.\w+\(/.test(line))
      say(at, "console");
    if (inSource && isUndocumented(source, at)) say(at, "an export without a sentence about it");
  });
  if (typescript)
    for (const line of earlyDisposals(source))
      say(line, "a promise that outlives what it uses: return await");
  if (/\.(ts|zig)$/.test(source.path) && !generated.test(source.path)) {
    for (const { line, length } of longFunctions(source.lines))
      say(line, `a function of ${length} lines, at most ${functionLinesMax}`);
  }
  return found;
}

/** Lines wider than the page, but for those that have no place to break at. */
function wideLines({ path, lines }: Source): { line: number; columns: number }[] {
  const isPage = path.endsWith(".md");
  const isScript = /\.[jt]s$/.test(path);
  let fenced = false;
  return lines.flatMap((text, line) => {
    if (isPage && text.trimStart().startsWith("```")) fenced = !fenced;
    const columns = Bun.stringWidth(text);
    if (columns <= columnsMax || fenced) return [];
    const whole = (isPage && unbreakableProse(text)) || (isScript && unbreakableCode(text));
    return whole ? [] : [{ line, columns }];
  });
}

/** Regular expressions, and the titles of tests. */
function unbreakableCode(line: string): boolean {
  return /^\s*(\/[^*/].*\/[a-z]*[,;]?|(test|describe)\b.*["'`], (async )?\(.*=> \{)$/.test(line);
}

/** Table rows, indented code, and lines without a space to break at before the last column. */
function unbreakableProse(line: string): boolean {
  return /^(\||    )/.test(line) || !/\S\s/.test(line.trim().slice(0, columnsMax));
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

/**
 * Lines that return the promise of an async function of the file from a block with `using`: what is
 * used is disposed before the promise is settled.
 */
function earlyDisposals({ text, lines }: Source): number[] {
  const found = new Set<number>();
  for (const [at, line] of lines.entries()) {
    const indent = /^( *)(?:await )?using /.exec(line)?.[1];
    if (indent === undefined) continue;
    const rest = lines.slice(at).findIndex((next) => /\S/.test(next) && !next.startsWith(indent));
    for (let i = at; i < (rest < 0 ? lines.length : at + rest); i++) {
      const called = /^ *(?:if \(.*\) )?return (\w+)\(/.exec(lines[i])?.[1];
      if (called !== undefined && text.includes(`async function ${called}(`)) found.add(i);
    }
  }
  return [...found];
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

/** Functions, constants and classes that are exported, though no other file names them. */
function unasked(sources: readonly Source[]): string[] {
  const files = new Map<string, number>();
  for (const { text } of sources)
    for (const word of new Set(text.match(/\w+/g))) files.set(word, (files.get(word) ?? 0) + 1);
  const exported = /^export (?:async )?(?:function|const|class) (\w+)/;
  return sources.flatMap(({ path, lines }) =>
    lines.flatMap((line) => {
      const name = exported.exec(line)?.[1];
      return name !== undefined && files.get(name) === 1 ? [`${path}: ${name}`] : [];
    }),
  );
}

describe("the house is tidy", () => {
  test("columns, lengths, words, types and sentences", () => {
    const code = sourcesOf(
      "{src,test,bench,scripts,examples}/**/*.{ts,js,html,py,c,s,cu,h}",
      "{zig,kernels}/**/*.{zig,h,cpp,cu}",
      "build.zig",
    );
    expect(code.flatMap(findings)).toEqual([]);
  });

  test("no page names a machine or keeps a note to self", () => {
    const pages = sourcesOf("*.md", "docs/**/*.md", "*.json", "*.toml", ".ci/*");
    expect(pages.flatMap(findings)).toEqual([]);
  });

  test("no file of src is dead", () => {
    const entries = [...Object.values(doors), "src/cli/main.ts"];
    expect(entries.filter((entry) => !existsSync(join(root, entry)))).toEqual([]);
    expect(unreached(sourcesOf("src/**/*.ts"), entries)).toEqual([]);
  });

  test("what is exported is asked for", () => {
    const folders = "{src,test,bench,scripts,examples}";
    const sources = sourcesOf(`${folders}/**/*.ts`).filter(({ path }) => !generated.test(path));
    expect(unasked(sources)).toEqual([]);
  });

  test("the lock file names no registry", async () => {
    expect(await Bun.file(join(root, "bun.lock")).text()).not.toContain("://");
  });
});

describe("the rules see", () => {
  const cases: [string, string, string, RegExp][] = [
    ["long lines", "src/kv/x.ts", `const x = ${"y + ".repeat(30)}1;`, /columns, at most 100/],
    ["long comments", "src/kv/x.ts", `/** ${"a \`b\` ".repeat(20)} */`, /columns, at most 100/],
    ["long native lines", "zig/emulator/x.cpp", `// ${"y ".repeat(50)}`, /columns, at most 100/],
    ["long prose", "docs/x.md", `\`\`\`\n\`\`\`\n${"y ".repeat(51)}`, /^docs\/x.md:3: 102 columns/],
    ["long files", "src/kv/x.ts", "\n".repeat(321), /321 lines, at most 320/],
    ["long tests", "test/kv/x.ts", "\n".repeat(551), /551 lines, at most 550/],
    ["long native files", "zig/x.zig", "\n".repeat(501), /501 lines, at most 500/],
    ["long kernels", "kernels/x.h", "\n".repeat(601), /601 lines, at most 600/],
    ["notes to self", "zig/x.zig", `// ${markers[0]}: later`, /note to self/],
    ["machine paths", "docs/x.md", `see ${"/ho"}me/someone/x`, /path of some machine/],
    ["any", "test/x.ts", "let x: any = 1;", /type any/],
    ["any in generics", "test/x.ts", "const x = new Map<string, any>();", /type any/],
    ["any casts", "test/x.ts", "f(x as any);", /type any/],
    ["packed objects", "test/x.ts", "  ...{ a, b: [1] },", /literal spread/],
    ["packed lists", "src/kv/x.ts", '  ...(["a", "b"] as const),', /literal spread/],
    ["console", "src/kv/x.ts", `console.log("x");`, /console/],
    [
      "promises of what is disposed",
      "bench/x.ts",
      "async function f() {}\nasync function g() {\n  using x = a();\n  return f(x);\n}",
      /^bench\/x.ts:4: .*await/,
    ],
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
      "/** Doc. */\nexport class A {\n  async #run(): Promise<void> {\n" +
        `${"    a++;\n".repeat(80)}  }\n}`,
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
      "/** Doc. */",
      "export const most = {\n  ...base,\n  ...(odd ? {} : { a }),\n  ...[1, 2].map(f),\n};",
      `/** Doc. */\nexport function f(many: number): string {\n  return "as any, console";\n}`,
    ].join("\n");
    expect(findings(sourceOf("src/kv/x.ts", text))).toEqual([]);
    const wide = "y ".repeat(60);
    const link = `[x](${"z".repeat(120)})`;
    const page = `| ${wide}|\n\n\`\`\`ts\n${wide}\n\`\`\`\n\n${link}\n`;
    expect(findings(sourceOf("docs/x.md", page))).toEqual([]);
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

  test("exports that nobody asks for", () => {
    const sources = [
      sourceOf("src/a.ts", "export const used = 1;\nexport async function own() {}\nown();"),
      sourceOf("src/b.ts", `import { used } from "./a.ts";\nexport interface Type {}`),
    ];
    expect(unasked(sources)).toEqual(["src/a.ts: own"]);
  });
});
