import { describe, expect, test } from "bun:test";
import { arrowsOf, circlesOf, fileGraph, roomOf } from "../scripts/graph.ts";
import { importsOf, type Source, sourcesOf } from "./support/sources.ts";

/** What each folder of src may import besides itself and the files at the roof's edge. */
const floors: Record<string, readonly string[]> = {
  kv: [],
  variant: [],
  plan: ["kv", "variant"],
  serve: ["kv"],
  ffi: [],
  jit: ["ffi"],
  device: ["jit", "ffi"],
  tensor: ["device", "ffi"],
  text: [],
  grammar: [],
  comm: ["ops", "tensor", "device", "ffi"],
  weights: ["text", "tensor"],
  ops: ["tensor", "device", "ffi"],
  cache: ["ops", "tensor", "device", "ffi", "kv"],
  attention: ["cache", "ops", "tensor", "device", "ffi", "jit", "plan", "kv", "variant"],
  replay: ["serve", "attention", "cache", "ops", "tensor", "device", "plan", "kv"],
  models: ["comm", "weights", "attention", "cache", "ops", "tensor", "device", "kv"],
  engine: [
    "comm",
    "models",
    "weights",
    "text",
    "grammar",
    "plan",
    "kv",
    "serve",
    "ops",
    "tensor",
    "device",
  ],
  server: ["engine", "text"],
  cli: ["comm", "server", "engine", "debloat", "replay", "attention", "device", "jit", "ffi"],
  debloat: ["ffi"],
};

/** Files in src itself that every folder may import: they import nothing above themselves. */
const pureShared = [
  "src/errors.ts",
  "src/require.ts",
  "src/describe.ts",
  "src/made.ts",
  "src/shown.ts",
];
const shared = [...pureShared, "src/options.ts", "src/part-files.ts"];
const pure = ["kv", "plan", "serve", "variant"];

/** Sentences about imports that climb, or that leave the pure wing. */
function climbs(sources: readonly Source[]): string[] {
  const wrong: string[] = [];
  for (const source of sources) {
    const folder = folderOf(source.path);
    for (const name of importsOf(source)) {
      const reason = verdict(folder, source.path, name);
      if (reason !== undefined) wrong.push(`${source.path} imports ${name}: ${reason}`);
    }
  }
  return wrong;
}

function verdict(folder: string, path: string, name: string): string | undefined {
  if (name === "bun:ffi") return folder === "ffi" ? undefined : "only src/ffi may";
  if (name.startsWith("kernels/"))
    return folder === "jit" ? undefined : "only src/jit reads kernel sources";
  if (!name.startsWith("src/")) {
    if (name.startsWith("..") || /^(test|bench|scripts|examples)\//.test(name))
      return name.endsWith("package.json") ? undefined : "it leaves src";
    return pure.includes(folder) ? "the pure wing imports nothing from outside" : undefined;
  }
  if (path === "src/index.ts") return name.startsWith("src/cli/") ? "programs stay out" : undefined;
  const target = folderOf(name);
  if (target === "") {
    if (name === "src/index.ts") return folder === "cli" ? undefined : "it climbs to the roof";
    const allowed = pure.includes(folder) ? pureShared : shared;
    return allowed.includes(name) ? undefined : "that file is not for this folder";
  }
  if (folder === "") return "the files that all share import no folder";
  if (!(folder in floors)) return `folder ${folder} has no floor: add it to the table`;
  return target === folder || floors[folder].includes(target) ? undefined : "it climbs";
}

/** Folder below src; "" for a file in src itself. */
function folderOf(path: string): string {
  return path.split("/").length > 2 ? roomOf(path) : "";
}

describe("floors", () => {
  test("imports only go down", () => {
    expect(climbs(sourcesOf("src/**/*.ts"))).toEqual([]);
  });

  test("no file imports itself over others, types included", () => {
    expect(circlesOf(fileGraph(sourcesOf("src/**/*.ts")))).toEqual([]);
  });

  test("nor does a folder inside a room", () => {
    const placeOf = (path: string) => {
      const parts = path.split("/");
      return parts.length > 3 ? parts.slice(0, 3).join("/") : path;
    };
    const arrows = arrowsOf(fileGraph(sourcesOf("src/**/*.ts")), placeOf);
    const graph = new Map([...arrows].map(([from, to]) => [from, [...to.keys()]]));
    expect(circlesOf(graph)).toEqual([]);
  });

  test("circles are found, whichever file they are entered by", () => {
    const text = (...names: string[]) => names.map((name) => `import type {} from "${name}";`);
    const files: [path: string, lines: string[]][] = [
      ["src/kv/in.ts", text("./b.ts")],
      ["src/kv/a.ts", text("../plan/c.ts", "./leaf.ts")],
      ["src/kv/b.ts", text("./a.ts", "./a.ts")],
      ["src/plan/c.ts", text("../kv/b.ts")],
      ["src/kv/leaf.ts", text("node:fs")],
      ["src/plan/d.ts", text("./e.ts", "../kv/leaf.ts")],
      ["src/plan/e.ts", text("./d.ts", "./d.ts")],
    ];
    const sources = files.map(([path, lines]) => ({ path, lines, text: lines.join("\n") }));
    const circles = [
      ["src/kv/a.ts", "src/kv/b.ts", "src/plan/c.ts"],
      ["src/plan/d.ts", "src/plan/e.ts"],
    ];
    expect(circlesOf(fileGraph(sources))).toEqual(circles);
    expect(circlesOf(fileGraph(sources.toReversed()))).toEqual(circles);
  });

  const cases: [string, string, string | undefined][] = [
    ["src/kv/batch.ts", `import { x } from "../device/device.ts";`, "it climbs"],
    ["src/plan/walk.ts", `import type { T } from "../tensor/dtype.ts";`, "it climbs"],
    ["src/plan/walk.ts", `export { x } from "../kv/batch.ts";`, undefined],
    ["src/plan/walk.ts", `import { readFileSync } from "node:fs";`, "the pure wing"],
    ["src/serve/step.ts", `import { x } from "../plan/walk.ts";`, "it climbs"],
    ["src/serve/step.ts", `import { now } from "bun";`, "the pure wing"],
    ["src/kv/batch.ts", `import { x } from "../options.ts";`, "that file is not for this folder"],
    ["src/kv/batch.ts", `import {\n  a,\n  b,\n} from "../plan/walk.ts";`, "it climbs"],
    ["src/cache/page.ts", `import { dlopen } from "bun:ffi";`, "only src/ffi may"],
    ["src/cache/page.ts", `const x = await import("../attention/attend.ts");`, "it climbs"],
    ["src/device/device.ts", `import { check } from "../ffi/status.ts";`, undefined],
    ["src/ffi/library.ts", `import { dlopen } from "bun:ffi";`, undefined],
    ["src/tensor/tensor.ts", `import { x } from "../index.ts";`, "it climbs to the roof"],
    ["src/tensor/tensor.ts", `import { x } from "../../test/support/oracle.ts";`, "it leaves src"],
    ["src/jit/image.ts", `import { x } from "../device/device.ts";`, "it climbs"],
    ["src/device/kernel.ts", `import x from "../../kernels/params/types.h";`, "only src/jit reads"],
    ["src/errors.ts", `import { x } from "./kv/batch.ts";`, "the files that all share"],
    ["src/wild/thing.ts", `import { x } from "../kv/batch.ts";`, "folder wild has no floor"],
  ];
  test.each(cases)("%s with %s", (path, text, reason) => {
    const found = climbs([{ path, text, lines: text.split("\n") }]);
    if (reason === undefined) expect(found).toEqual([]);
    else expect(found).toEqual([expect.stringContaining(reason)]);
  });
});
