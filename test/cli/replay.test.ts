import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../support/sources.ts";
import { deviceTargets } from "../support/targets.ts";
import { entry, flashbun } from "./run.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-cli-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The published trace where there is one, else a sample of its format. */
function traceOf(name: string, sample: string): string {
  const real = join(root, "../shared/data", name);
  if (existsSync(real)) return real;
  const path = join(folder, name);
  writeFileSync(path, sample);
  return path;
}

const csv = Array.from({ length: 40 }, (_, i) => {
  const second = String(i).padStart(2, "0");
  return `2023-11-16 18:15:${second}.5,${100 + 37 * i},${20 + i}\n`;
}).join("");

const jsonl = Array.from({ length: 40 }, (_, i) => {
  const ids = [0, (i % 3) + 1, 100 + i];
  const request = { timestamp: i * 500, input_length: 1100 + i, output_length: 40, hash_ids: ids };
  return `${JSON.stringify(request)}\n`;
}).join("");

const traces: [string, string, string][] = [
  [
    "azure_llm_2023_conv.csv",
    `TIMESTAMP,ContextTokens,GeneratedTokens\n${csv}`,
    "azure-csv, lengths x 0.05",
  ],
  ["mooncake_conversation.jsonl", jsonl, "mooncake-jsonl, lengths x 0.05"],
];

const small = ["replay", "--shape", "tiny", "--scale-lengths", "0.05", "--requests", "30"];

describe("both traces, 30 requests", () => {
  test.each(traces)("%s", async (name, sample, kind) => {
    const json = join(folder, `${name}.summary.json`);
    const { code, out, err } = await flashbun(
      ...small,
      "--trace",
      traceOf(name, sample),
      "--json",
      json,
    );
    expect(err).not.toContain("flashbun: ");
    expect(code).toBe(0);
    const summary = await Bun.file(json).json();
    expect(summary.requests).toBe(30);
    expect(summary.trace).toBe(`${name} (${kind})`);
    expect(summary.verified).toMatchObject({ checked: 64, failed: 0 });
    expect(summary.tokensPerSecond).toBeGreaterThan(0);
    expect(summary.ttftMs.p99).toBeGreaterThanOrEqual(summary.ttftMs.p50);
    expect(summary.pageUsePeak).toBeGreaterThan(0);
    expect(summary.readCeilingGBs).toBeGreaterThan(0);
    if (name.startsWith("mooncake")) expect(summary.prefixHitRate).toBeGreaterThan(0);
    expect(out).toContain("64 outputs against f64, none off");
    expect(err).toContain("replay: 30 requests");
  });
});

const gpu = (await deviceTargets()).find(({ kind }) => kind === "cuda");

describe.if(gpu !== undefined)("on a GPU", () => {
  const few = ["replay", "--shape", "tiny", "--scale-lengths", "0.05", "--requests", "8"];

  test("decode steps replay graphs, outputs are bf16 and right, the device is named", async () => {
    const json = join(folder, "gpu.json");
    const args = ["--device", "cuda:0", "--json", json];
    const { code, out, err } = await flashbun(...few, ...args);
    expect(err).not.toContain("flashbun: ");
    expect(code).toBe(0);
    const summary = await Bun.file(json).json();
    expect(summary.shape).toContain("bf16");
    expect(summary.graphSteps).toBeGreaterThan(0);
    expect(summary.verified.failed).toBe(0);
    expect(err).toContain(`on ${summary.device}`);
    expect(out).toContain("replayed a captured graph");
  }, 300_000);

  test("what only the CPU takes is refused", async () => {
    for (const [args, sentence] of [
      [["--dtype", "f32"], /^flashbun: --dtype must be .* on a GPU \(got "f32"\)/m],
      [["--threads", "2"], /^flashbun: --threads must be left out for a CUDA device/m],
      [["--device", "cuda:99"], /^flashbun: --device must be below \d+/m],
    ] as const) {
      const { code, err } = await flashbun(...few, "--device", "cuda:0", ...args);
      expect(code).toBe(2);
      expect(err).toMatch(sentence);
    }
  });
});

describe("outputs", () => {
  test("summary, report and events; quiet prints nothing", async () => {
    const at = (name: string) => join(folder, name);
    const files = [
      "--json",
      at("a.json"),
      "--report",
      at("a.html"),
      "--trace-events",
      at("e.json"),
    ];
    const { code, out, err } = await flashbun(...small, ...files, "--quiet");
    expect({ code, out, err }).toEqual({ code: 0, out: "", err: "" });
    const page = await Bun.file(at("a.html")).text();
    expect(page).toContain("<svg");
    const { traceEvents } = await Bun.file(at("e.json")).json();
    expect(traceEvents.length).toBeGreaterThan(30);
    expect(readdirSync(folder).filter((name) => name.endsWith(".part"))).toEqual([]);
  });

  test("the same seed gives the same tokens", async () => {
    const counts = await Promise.all(
      ["7", "7", "8"].map(async (seed, i) => {
        const json = join(folder, `seed-${i}.json`);
        await flashbun(...small, "--seed", seed, "--json", json, "--quiet");
        const { promptTokens, outputTokens } = await Bun.file(json).json();
        return [promptTokens, outputTokens];
      }),
    );
    expect(counts[0]).toEqual(counts[1]);
    expect(counts[0]).not.toEqual(counts[2]);
  });
});

describe("bad input: exit code 1 and the reason", () => {
  test("an absent trace", async () => {
    const { code, out, err } = await flashbun("replay", "--trace", join(folder, "absent.csv"));
    expect([code, out]).toEqual([1, ""]);
    expect(err).toMatch(/^flashbun: .*absent\.csv: no such file\. Fix: check the path\.\n$/);
  });

  test("a malformed line, refused or skipped", async () => {
    const trace = join(folder, "malformed.csv");
    writeFileSync(trace, `${csv}2023-11-16 18:16:00,-4,7\n`);
    const options = ["replay", "--shape", "tiny", "--scale-lengths", "0.05", "--trace", trace];
    const strict = await flashbun(...options);
    expect(strict.code).toBe(1);
    expect(strict.err).toMatch(/malformed\.csv, line 41: ContextTokens .* \(got "-4"\)\. Fix: /);
    expect(strict.err).not.toMatch(/\n\s+at /);
    const lenient = await flashbun(...options, "--lenient");
    expect(lenient.code).toBe(0);
    expect(lenient.err).toMatch(/skipped 1 line of .*: line 41: ContextTokens/);
    expect(lenient.out).toMatch(/requests +40\n/);
  });
});

test("Ctrl-C ends with the partial summary and exit code 130", async () => {
  const json = join(folder, "interrupted.json");
  // A hundred seconds of arrivals, of which two are run.
  const options = ["--shape", "tiny", "--requests", "2000", "--rate", "20", "--json", json];
  const child = Bun.spawn([process.execPath, entry, "replay", ...options], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const out = new Response(child.stdout).text();
  let err = "";
  const decoder = new TextDecoder();
  for await (const chunk of child.stderr) {
    err += decoder.decode(chunk, { stream: true });
    // The first line of progress: the run has steps behind it. `bun run` may pass a signal twice.
    if (!/replay: \d+\/2000/.test(err) || err.includes("interrupted")) continue;
    child.kill("SIGINT");
    child.kill("SIGINT");
  }
  expect(await child.exited).toBe(130);
  expect(err).toContain("interrupted");
  expect(await out).toMatch(/tokens\/s/);
  const summary = await Bun.file(json).json();
  expect(summary.requests).toBeLessThan(2000);
  expect(summary.outputTokens).toBeGreaterThan(0);
  expect(summary.verified.failed).toBe(0);
}, 300_000);

test("a terminal gets a bar with tokens/s", async () => {
  let shown = "";
  const decoder = new TextDecoder();
  const child = Bun.spawn([process.execPath, entry, ...small], {
    terminal: {
      cols: 120,
      rows: 30,
      data: (_, data) => void (shown += decoder.decode(data, { stream: true })),
    },
  });
  expect(await child.exited).toBe(0);
  expect(shown).toMatch(/█+░* +30\/30 requests \| .* tokens\/s \| batch \d+ \| pages \d+ % \| cpu/);
  expect(shown).toContain("64 outputs against f64, none off");
});
