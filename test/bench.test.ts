import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runBun } from "./support/run.ts";
import { root } from "./support/zig.ts";

const script = join(root, "bench", "run.ts");

test("the benchmarks run, print their ceilings and write rows as JSON", async () => {
  const file = join(mkdtempSync(join(tmpdir(), "flashbun-")), "bench.json");
  const only = "noop|plan/b256|append|b16_h32_8|prefill/f32";
  const args = ["--quick", "--no-peer", "--only", only, "--json", file];
  const { code, stdout, stderr } = await runBun([script, ...args]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  expect(stdout).toContain("GB/s read");
  const { rows, ceilings } = JSON.parse(readFileSync(file, "utf8"));
  expect(ceilings.readGBs).toBeGreaterThan(0);
  expect(ceilings.fmaGflops).toBeGreaterThan(0);
  const names = rows.map(({ name }: { name: string }) => name);
  expect(names).toContain("decode/bf16/b16_h32_8_d128_kv4096");
  expect(names).toContain("prefill/f32/b1_h8_8_d128_s2048_causal");
  for (const row of rows) {
    const keys = ["name", "value", "unit", "ofRoofline", "peer", "ofPeer"];
    expect(Object.keys(row)).toEqual(keys);
    expect(row.value).toBeGreaterThan(0);
  }
});

test("wrong arguments are refused in a sentence", async () => {
  for (const [args, sentence] of [
    [["--only", "("], "--only"],
    [["--threads", "none"], "--threads"],
    [["--only", "nothing-like-this"], "no row matches"],
    [["--frobnicate"], "unknown option"],
  ] as const) {
    const { code, stderr } = await runBun([script, ...args]);
    expect(code).not.toBe(0);
    expect(stderr).toContain(sentence);
    expect(stderr).not.toContain("    at ");
  }
});
