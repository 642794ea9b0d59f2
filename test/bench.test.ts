import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { decodeTable } from "../bench/paper/dynamism.ts";
import { pageOf } from "../bench/paper/page.ts";
import { Peer, type PeerCase } from "../bench/peers/peer.ts";
import { runBun } from "./support/run.ts";
import { deviceTargets } from "./support/targets.ts";
import { root } from "./support/zig.ts";

const script = join(root, "bench", "run.ts");
const gpuScript = join(root, "bench", "gpu", "run.ts");
const folder = mkdtempSync(join(tmpdir(), "flashbun-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const rowKeys = ["name", "value", "unit", "ofRoofline", "peer", "ofPeer"];

test("the benchmarks run, print their ceilings and write rows as JSON", async () => {
  const file = join(folder, "bench.json");
  const only = "noop|plan/b256|append|rope|demo|b16_h32_8|prefill/f32|variant/f32/mask";
  const args = ["--quick", "--no-peer", "--only", only, "--json", file];
  const { code, stdout, stderr } = await runBun([script, ...args]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  expect(stdout).toContain("GB/s read");
  for (const kind of ["decode", "prefill"])
    expect(stdout).toMatch(new RegExp(`^${kind}/.*beside [\\d.]+ GB/s, \\d+ GFLOP/s$`, "m"));
  const { rows, ceilings } = JSON.parse(readFileSync(file, "utf8"));
  expect(ceilings.readGBs).toBeGreaterThan(0);
  expect(ceilings.fmaGflops).toBeGreaterThan(0);
  const names = rows.map(({ name }: { name: string }) => name);
  expect(names).toContain("decode/bf16/b16_h32_8_d128_kv4096");
  expect(names).toContain("prefill/f32/b1_h8_8_d128_s2048_causal");
  expect(names).toContain("demo/host_b64");
  expect(names).toContain("variant/f32/mask_b1_h8_d128_s1024");
  for (const row of rows) {
    expect(Object.keys(row)).toEqual(rowKeys);
    expect(row.value).toBeGreaterThan(0);
  }
}, 300_000);

/** The GPU's benchmarks run on the CPU device too, which shows that they work. */
const places = (await deviceTargets()).map(({ kind }) => (kind === "cpu" ? "cpu" : "cuda:0"));

test.each(places)(
  "those of the GPU run on %s, one row of each kind",
  async (device) => {
    const file = join(folder, "gpu.json");
    const only =
      "b64_h32_8_d128_kv4096_p16|zipf|f8e4m3/b1_|launch|step32_b1|4x512|append/bf16|merge|" +
      "prefill/[a-z0-9]+/(ragged|paged16)/b1_h16_d128_s16384_causal";
    const args = ["--quick", "--no-peer", "--only", only, "--json", file, "--device", device];
    const { code, stdout, stderr } = await runBun([gpuScript, ...args]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toContain("GB/s copied");
    const { rows, ceilings } = JSON.parse(readFileSync(file, "utf8"));
    expect(ceilings.readGBs).toBeGreaterThan(0);
    const names = rows.map(({ name }: { name: string }) => name);
    expect(names).toEqual([...new Set(names)]);
    for (const name of [
      "decode/bf16/b64_h32_8_d128_kv4096_p16",
      "mixed/bf16/60x4096_and_4x512/step",
      "decode/bf16/b64_h32_8_d128_kv4096_p16_hnd",
      "decode/f8e4m3/b1_h32_8_d128_kv8192_p16",
      "prefill/bf16/ragged/b1_h16_d128_s16384_causal",
      "prefill/bf16/paged16/b1_h16_d128_s16384_causal",
      "launch/run_above_bare",
      "graph/step32_b1_h32_8_d128_kv1024/replay",
      "graph/step32_b1_h32_8_d128_kv1024/step",
      "merge/bf16/s2_t8192_h32_d128",
    ])
      expect(names).toContain(name);
    for (const row of rows) {
      expect(Object.keys(row)).toEqual(expect.arrayContaining([...rowKeys, "peers"]));
      expect(row.value).toBeNumber();
    }
  },
  120_000,
);

test("a budget leaves the last rows out and says so", async () => {
  const args = ["--quick", "--no-peer", "--device", "cpu", "--budget", "1", "--only", "decode"];
  const file = join(folder, "budget.json");
  // A budget that opening the device uses up lets no row start; the run still ends well.
  const run = await runBun([gpuScript, ...args, "--json", file]);
  expect(run.code).toBe(0);
  const { rows } = JSON.parse(readFileSync(file, "utf8"));
  const left = /(\d+) rows are left out/.exec(run.stdout)?.[1] ?? "0";
  expect(rows.length + Number(left)).toBeGreaterThan(20);
});

test("a peer answers, refuses and may die", async () => {
  const peerScript = join(folder, "peer.py");
  writeFileSync(
    peerScript,
    [
      "import json, sys",
      'print(json.dumps({"version": "9.9", "backends": ["a", "b"]}), flush=True)',
      "for line in sys.stdin:",
      "    case = json.loads(line)",
      '    if case["backend"] == "b": sys.exit(1)',
      '    answer = {"seconds": case["keys"] / 1000} if case["causal"] else {"error": "full"}',
      "    print(json.dumps(answer), flush=True)",
    ].join("\n"),
  );
  const peer = await Peer.start(peerScript);
  if (Bun.which("python3") === null) return expect(peer).toBeUndefined();
  const peerCase: PeerCase = {
    backend: "a",
    dtype: "bf16",
    batch: 1,
    queryHeads: 1,
    kvHeads: 1,
    dim: 8,
    queries: 1,
    keys: 7,
    causal: true,
    copies: 1,
    seconds: 0.1,
  };
  expect(peer!.version).toBe("9.9");
  expect(peer!.backends).toEqual(["a", "b"]);
  expect(await peer!.ask(peerCase)).toEqual({ seconds: 0.007 });
  expect(await peer!.ask({ ...peerCase, causal: false })).toEqual({ error: "full" });
  expect(await peer!.ask({ ...peerCase, backend: "b" })).toEqual({ error: "its process ended" });
  expect(await peer!.ask({ ...peerCase, backend: "b" })).toEqual({ error: "it failed before" });
  // The other one goes on in a new process.
  expect(await peer!.ask(peerCase)).toEqual({ seconds: 0.007 });
  peer!.stop();
});

test("a script that cannot run is no peer", async () => {
  expect(await Peer.start(join(folder, "absent.py"))).toBeUndefined();
});

test("wrong arguments are refused in a sentence", async () => {
  for (const [args, sentence] of [
    [[script, "--only", "("], "--only"],
    [[script, "--threads", "none"], "--threads"],
    [[script, "--only", "nothing-like-this"], "no row matches"],
    [[script, "--frobnicate"], "unknown option"],
    [[gpuScript, "--budget", "0"], "--budget"],
    [[gpuScript, "--seconds", "0"], "--seconds"],
    [[gpuScript, "--only", "nothing-like-this"], "no row matches"],
    [[gpuScript, "--device", "gpu"], "kind must be"],
  ] as const) {
    const { code, stderr } = await runBun([...args]);
    expect(code).not.toBe(0);
    expect(stderr).toContain(sentence);
    expect(stderr).not.toContain("    at ");
  }
}, 300_000);

test.each(places)(
  "the paper's tables are measured on %s and make a page",
  async (device) => {
    const paper = join(root, "bench", "paper", "run.ts");
    const page = join(folder, "paper.md");
    // An emulated GPU compiles images for each kind of attention: of one.
    const only = device === "cpu" ? "." : "g2";
    const args = ["--quick", "--no-peer", "--device", device, "--only", only, "--page", page];
    const { code, stdout, stderr } = await runBun([paper, ...args]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const text = readFileSync(page, "utf8");
    const titles = [...text.matchAll(/^## (.*)$/gm)].map(([, title]) => title);
    expect(titles).toHaveLength(device === "cpu" ? 7 : 1);
    for (const title of titles) expect(stdout).toContain(title);
    // Paper: 58 and 53 percent, 1.09 times; ours has no peer here.
    if (device === "cpu")
      expect(text).toMatch(/^\| 1024, GQA 32\/8 \| 58.0 \| 53.0 \| 1.09x \| [\d.]+ \|  \|  \|$/m);
    expect(text).toMatch(
      /^\| prefix 8192, 64 requests \| 126 \| 932 \| 7.41x \| [\d.]+ \| [\d.]+ \|/m,
    );
    for (const line of text.split("\n"))
      if (!line.startsWith("|")) expect(line.length).toBeLessThan(101);
  },
  300_000,
);

test("FlashInfer that ran beside has columns of its own on the paper's page", () => {
  const [row] = decodeTable.rows;
  const textOf = (flashinfer?: number | null) =>
    pageOf("a GPU", "today", [
      { table: decodeTable, rows: [{ row, measured: { flashbun: 80, other: 40, flashinfer } }] },
    ]);
  expect(textOf(75)).toMatch(/\| 80.0 \| 40.0 \| 2.00x \| 75.0 \| 1.07x \|$/m);
  expect(textOf(null)).toMatch(/\| 80.0 \| 40.0 \| 2.00x \|  \|  \|$/m);
  expect(textOf()).toMatch(/\| 80.0 \| 40.0 \| 2.00x \|$/m);
});

test("a table that the paper does not have is refused", async () => {
  const paper = join(root, "bench", "paper", "run.ts");
  const { code, stderr } = await runBun([paper, "--device", "cpu", "--only", "figure7"]);
  expect(code).toBe(2);
  expect(stderr).toMatch(/no table matches .*figure8-decode, figure8-prefill, figure9-rope/);
});
