import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { offerOf, sourcesOf } from "../../src/attention/families/resolve.ts";
import { families } from "../../src/attention/families/table.ts";
import { resolveOptions } from "../../src/attention/options.ts";
import { findNvrtc } from "../../src/jit/nvrtc.ts";
import { operatorSources } from "../../src/jit/operators.ts";
import { runBun } from "../support/run.ts";
import { root } from "../support/sources.ts";
import { gpuTarget } from "../support/targets.ts";
import { entry } from "./run.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "flashbun-jit-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const library = join(root, "src", "index.ts");
const options = { queryHeads: 2, kvHeads: 1, headDim: 64, dtype: "bf16", causal: true } as const;
const shape = JSON.stringify(options);

/** A module of the folder. */
function moduleOf(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, `import { defineCudaVariant, defineVariant } from "${library}";\n${text}`);
  return path;
}

/** Runs `flashbun jit` over a cache of the folder's own. */
async function jit(args: string[], env: Record<string, string> = {}) {
  const own = { FLASHBUN_CACHE: join(folder, "cache"), ...env };
  const { code, stdout, stderr } = await runBun([entry, "jit", ...args], { env: own });
  return { code, out: stdout, err: stderr };
}

const hasNvrtc = findNvrtc().found !== undefined;

test.skipIf(!hasNvrtc)(
  "warm compiles what a file's attentions need, once, and list names it",
  async () => {
    const cap = `defineVariant({ name: "my cap", logits: (x) => x.div(9).tanh().mul(9) })`;
    const two = `[{ ...${shape}, variant }, { ...${shape}, windowLeft: 9, variant }]`;
    const file = moduleOf("two.ts", `const variant = ${cap};\nexport default ${two};`);
    const warm = () => jit(["warm", file, "--arch", "sm_90a"]);
    const first = await warm();
    expect({ code: first.code, out: first.out }).toEqual({
      code: 0,
      out: expect.stringMatching(/^two\.ts\[\d\].*: 6 kernels, .* s\)$/m),
    });
    expect(first.out).toContain("two.ts[1] (my cap): 6 kernels");
    const operators = operatorSources().length;
    expect(first.out).toContain(`operators: ${operators} kernels, ${operators} compiled`);
    expect(first.out).toContain("compiled");
    const again = await warm();
    expect(again.out).not.toContain("compiled");
    expect(again.out).toContain("cached");
    const list = await jit(["list"]);
    expect(list.code).toBe(0);
    expect(list.out).toMatch(
      /^[0-9a-f]{12} {2}\d{4}-\d\d-\d\d \d\d:\d\d +\d+ kB {2}sm_90a attention\/tiled\/decode\.cu/m,
    );
    const [, count] = /(\d+) images, [\d.]+ MB in /.exec(list.out)!;
    expect(Number(count)).toBe(6 + operators);
  },
  300_000,
);

// After the test above: its operators are found in the cache.
test.skipIf(!hasNvrtc)("a hook that does not compile is told of by its own line", async () => {
  const text = [
    "const source = `",
    "FB_DEVICE float logits(const fb_attention_params& p, const RowInputs& row,",
    "                       const KeyInputs& key, float x) {",
    "    return x + undeclared;",
    "}`;",
    `const variant = defineCudaVariant({ name: "broken", source, hooks: ["logits"] });`,
    `export default { ...${shape}, variant };`,
  ];
  const file = moduleOf("broken.ts", text.join("\n"));
  const dump = join(folder, "dump");
  const { code, err } = await jit(["warm", file, "--arch", "sm_90a"], { FLASHBUN_DUMP: dump });
  expect(code).toBe(1);
  expect(err).toContain("undeclared");
  expect(err).toContain(`${file}:5`);
  expect(err).toContain("FLASHBUN_DUMP=DIR");
  expect(readdirSync(dump).some((name) => name.startsWith("attention-tiled-decode."))).toBe(true);
});

test("clear removes what list counts", async () => {
  const cache = join(folder, "cache");
  mkdirSync(cache, { recursive: true, mode: 0o700 });
  writeFileSync(join(cache, `${"0".repeat(64)}.image`), "");
  const [, count] = /(\d+) images?, [\d.]+ MB in /.exec((await jit(["list"])).out)!;
  expect(Number(count)).toBe(readdirSync(cache).length);
  expect((await jit(["clear"])).out).toMatch(new RegExp(`^removed ${count} images?`));
  expect(readdirSync(cache)).toEqual([]);
});

test("warm takes the GPU at hand", async () => {
  const gpu = gpuTarget();
  if (gpu === undefined) return;
  const file = moduleOf("plain.ts", `export default ${shape};`);
  const env = { FLASHBUN_LIBCUDA: process.env["FLASHBUN_LIBCUDA"] ?? "" };
  const { FLASHBUN_CACHE = "" } = process.env;
  const { code, out, err } = await jit(["warm", file], { ...env, FLASHBUN_CACHE });
  expect({ code, err }).toEqual({ code: 0, err: expect.any(String) });
  await using device = await gpu.open(1);
  const offer = offerOf(families.cuda, device.properties, resolveOptions(options));
  const kernels = sourcesOf(offer).length;
  expect(out).toMatch(
    new RegExp(`^plain\\.ts: ${kernels} kernels, \\d+ (compiled|cached|embedded)`, "m"),
  );
}, 300_000);

test("what cannot be warmed is refused in one sentence", async () => {
  const none = { FLASHBUN_LIBCUDA: "/absent/libcuda.so.1" };
  const good = moduleOf("good.ts", `export default ${shape};`);
  for (const [args, message, env] of [
    [["warm"], "missing required argument 'files'"],
    [["warm", "absent.ts"], 'FILE must be a TypeScript or JavaScript file (got "absent.ts")'],
    [["warm", good, "--arch", "sm_70"], "--arch must be one of sm_75, sm_80, sm_86"],
    [["warm", good], "--arch must be given where there is no GPU", none],
    [["warm", moduleOf("none.ts", ""), "--arch", "sm_90a"], "must be options of an attention"],
    [["warm", moduleOf("empty.ts", "export default [];"), "--arch", "sm_90a"], "(got [])"],
    [
      ["warm", moduleOf("wrong.ts", "export default { heads: 1 };"), "--arch", "sm_90a"],
      "queryHeads",
    ],
    [
      ["warm", moduleOf("throws.ts", `throw new Error("no");`), "--arch", "sm_90a"],
      "be loaded: no",
    ],
    [["warn"], "unknown command 'warn'"],
  ] as [string[], string, Record<string, string>?][]) {
    const { code, out, err } = await jit(args, env);
    expect({ args, err, out }).toEqual({ args, err: expect.stringContaining(message), out: "" });
    expect(err.trim().split("\n")).toHaveLength(1);
    expect(code).toBeGreaterThan(0);
  }
}, 300_000);

test("a listing ends quietly where its reader does", async () => {
  const cache = join(folder, "long");
  mkdirSync(cache, { mode: 0o700 });
  for (let i = 0; i < 3000; i++) {
    writeFileSync(join(cache, `${i.toString(16).padStart(64, "0")}.image`), "");
  }
  const line = `"${process.execPath}" "${entry}" jit list | head -n 1`;
  const child = Bun.spawn(["bash", "-c", `set -o pipefail; ${line}`], {
    env: { ...process.env, FLASHBUN_CACHE: cache },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  expect({ code: await child.exited, err, lines: out.split("\n").length }).toEqual({
    code: 0,
    err: "",
    lines: 2,
  });
});
