import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { drive } from "../../src/cli/bench/drive.ts";
import { overTime } from "../../src/cli/bench/report.ts";
import type { Target } from "../../src/cli/bench/target.ts";
import { wordCount, wordsOf } from "../../src/cli/bench/words.ts";
import { Engine } from "../../src/engine/index.ts";
import { ApiServer } from "../../src/server/index.ts";
import { forSeeds } from "../support/random.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";
import { flashbun } from "./run.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-bench-"));
const shape = { layers: 1, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const path = writeFolder(folder, tinyModel(2, { ...shape, context: 512, tied: true }));
let engine: Engine;
let server: ApiServer;

beforeAll(async () => {
  engine = await Engine.load(path);
  server = new ApiServer(engine, { model: "tiny", port: 0, apiKey: "secret", maxRequests: 12 });
});

afterAll(async () => {
  await server.stop(0);
  await engine[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

/** What `--json` writes, as far as these tests look. */
interface Said {
  model: string;
  load: Record<string, unknown>;
  answers: number;
  failed: number;
  failures: Record<string, number>;
  outputTokens: number;
  promptTokens: number;
  cachedTokens: number;
  loopLagMs: { p50: number; max: number };
  requests: { askedMs: number; answersMs: number[][]; outputTokens: number; failure?: string }[];
}

const lengths = ["--prompt-tokens", "3-5", "--output-tokens", "6", "--warm-up", "2"];
const json = join(folder, "bench.json");

async function bench(...args: string[]) {
  const said = await flashbun("bench", ...args, ...lengths, "--json", json);
  return { ...said, figures: JSON.parse(readFileSync(json, "utf8")) as Said };
}

describe("a server", () => {
  const to = () => ["--url", `${server.url}/v1/`, "--api-key", "secret"];

  test.each([
    ["completions", ["--clients", "3"]],
    ["chats", ["--chat", "--clients", "3"]],
    ["arrivals by chance", ["--rate", "40"]],
    ["answers that share a prompt", ["--samples", "3", "--clients", "2"]],
  ])(
    "%s: each token's time, and counts as the server has them",
    async (_, how) => {
      const { figures, code, err } = await bench(...to(), "--requests", "6", ...how);
      expect([code, err]).toEqual([0, ""]);
      const samples = how.includes("--samples") ? 3 : 1;
      expect(figures).toMatchObject({ answers: 6 * samples, failed: 0, failures: {} });
      expect(figures.model).toStartWith("tiny at http");
      expect(figures.outputTokens).toBe(36 * samples);
      // Words are many tokens of this vocabulary.
      expect(figures.promptTokens).toBeGreaterThan(6 * 3);
      for (const { askedMs, answersMs, outputTokens } of figures.requests) {
        expect(outputTokens).toBe(6 * samples);
        expect(answersMs.length).toBe(samples);
        for (const times of answersMs) {
          expect(times.length).toBeGreaterThan(0);
          expect([askedMs, ...times].every((time, i, all) => i === 0 || time >= all[i - 1])).toBe(
            true,
          );
        }
      }
      expect(figures.loopLagMs.max).toBeGreaterThanOrEqual(figures.loopLagMs.p50);
    },
    60_000,
  );

  test("a shared prefix is found again, as the server says", async () => {
    const shared = ["--shared-tokens", "40", "--requests", "4", "--clients", "1"];
    const { figures } = await bench(...to(), ...shared);
    expect(figures.cachedTokens).toBeGreaterThan(4 * 40);
  }, 60_000);

  test("Mooncake's and Azure's traces", async () => {
    const mooncake = join(folder, "mooncake.jsonl");
    const line = (timestamp: number, hash: number) =>
      JSON.stringify({ timestamp, input_length: 20, output_length: 4, hash_ids: [hash] });
    await Bun.write(mooncake, [line(0, 1), line(10, 1), line(30, 2)].join("\n"));
    const azure = join(folder, "azure.csv");
    const rows = [0, 1, 2].map((i) => `2024-05-10 00:00:00.0${i}0000,${10 + i},3`);
    await Bun.write(azure, `TIMESTAMP,ContextTokens,GeneratedTokens\n${rows.join("\n")}\n`);
    for (const [trace, tokens] of [
      [mooncake, 12],
      [azure, 9],
    ] as const) {
      const how = ["--trace", trace, "--requests", "3", "--warm-up", "0"];
      const said = await flashbun("bench", ...to(), ...how, "--json", json);
      expect(said.err).toBe("");
      const figures = JSON.parse(readFileSync(json, "utf8")) as Said;
      expect([figures.answers, figures.outputTokens]).toEqual([3, tokens]);
      expect(figures.load["trace"]).toBe(trace);
    }
  }, 60_000);

  test("what it refuses is counted with its reason, and the exit code says so", async () => {
    const many = ["--requests", "40", "--clients", "40", "--output-tokens", "100"];
    const said = await flashbun("bench", ...to(), ...lengths, ...many, "--json", json);
    const figures = JSON.parse(readFileSync(json, "utf8")) as Said;
    expect(said.code).toBe(1);
    expect(figures.answers + figures.failed).toBe(40);
    expect(figures.answers).toBeGreaterThanOrEqual(12);
    const [reason] = Object.keys(figures.failures);
    expect(reason).toMatch(/^429: \d+ requests wait or run/);
    expect(said.out).toMatch(/failed +\d+: 429: /);
  }, 60_000);

  test("a report without a key in it", async () => {
    const report = join(folder, "report.html");
    const said = await flashbun(
      "bench",
      ...to(),
      ...lengths,
      "--requests",
      "4",
      "--report",
      report,
    );
    expect(said.err).toBe("");
    const page = readFileSync(report, "utf8");
    expect(page).toContain("--api-key ...;".slice(0, 13));
    expect(page).not.toContain("secret");
    expect(page).not.toMatch(/<(script|link|img|iframe)[^>]*\s(src|href)=|\{\{\w+\}\}/);
  }, 60_000);

  test("what is wrong is said in a line", async () => {
    const cases: [args: string[], said: RegExp][] = [
      [["--url", `${server.url}/v1`], /--url must be a server that answers .*\(401: the API key/],
      [["--url", "http://127.0.0.1:9/v1"], /--url must be a server that answers/],
      [["other", ...to()], /model must be one of tiny/],
      [[...to(), "--device", "cpu"], /'--url <url>' cannot be used with option '--device <name>'/],
      [[path, "--chat"], /chat must be beside --url/],
    ];
    for (const [args, message] of cases) {
      const { code, err } = await flashbun("bench", ...args);
      expect(err).toMatch(message);
      expect(code).toBe(2);
    }
  }, 60_000);
});

test("a server that knows OpenAI's fields alone, and counts nothing", async () => {
  const refused: string[] = [];
  using other = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      if (request.method === "GET") return Response.json({ data: [{ id: "theirs" }] });
      const body = (await request.json()) as Record<string, unknown>;
      if ("ignore_eos" in body) {
        refused.push("ignore_eos");
        return Response.json({ error: { message: "unknown ignore_eos" } }, { status: 400 });
      }
      const event = { choices: [{ index: 0, delta: { content: "a" } }] };
      const line = `: a remark\r\n\r\ndata: ${JSON.stringify(event)}\r\n\r\n`;
      return new Response(`${line}${line}data: [DONE]\r\n\r\n`);
    },
  });
  const how = ["--url", `${other.url.origin}/v1`, "--chat", "--requests", "3"];
  const plain = await bench(...how, "--plain");
  expect([plain.code, plain.figures.answers, plain.figures.outputTokens]).toEqual([0, 3, 6]);
  const { code, figures } = await bench(...how);
  expect(code).toBe(1);
  expect(figures.failures).toEqual({ "400: unknown ignore_eos": 3 });
  expect(refused.length).toBeGreaterThan(0);
}, 60_000);

test("words are as many as ids, and differ", () => {
  const all = wordsOf(Array.from({ length: wordCount }, (_, i) => i)).split(" ");
  expect(new Set(all).size).toBe(wordCount);
  expect(wordsOf([wordCount, 1])).toBe(wordsOf([0, 1]));
});

test("a report's bins lose no token, and count who waits and who streams", () => {
  forSeeds(30, (random) => {
    const asked = Array.from({ length: random.integer(1, 40) }, () => {
      const askedMs = 1000 * random.next();
      let time = askedMs;
      const times = Array.from({ length: random.integer(0, 30) }, () => (time += 20));
      const counts = { promptTokens: 1, cachedTokens: 0, outputTokens: times.length };
      return { askedMs, answersMs: [times], ...counts };
    });
    const { x, rate, waiting, streaming } = overTime(asked, 2);
    const pieces = asked.reduce((sum, { answersMs }) => sum + answersMs[0].length, 0);
    const width = 2 / x.length;
    expect(rate.reduce((sum, each) => sum + each * width, 0)).toBeCloseTo(pieces, 6);
    x.forEach((seconds, i) => {
      const open = asked.filter(({ askedMs, answersMs: [times] }) => {
        return times.length > 0 && askedMs <= 1e3 * seconds && 1e3 * seconds <= times.at(-1)!;
      });
      expect(waiting[i] + streaming[i]).toBe(open.length);
    });
  });
});

test("a signal ends the wait for requests that have not come", async () => {
  const prompt = Int32Array.of(1);
  const late = { prompt, outputTokens: 1, arrivalSeconds: 1000 };
  const target = { ask: () => Promise.reject(new Error("it was asked")) } as unknown as Target;
  const signal = AbortSignal.timeout(10);
  const how = { clients: undefined, samples: 1, temperature: 0, signal };
  expect(await drive(target, [late, late], how)).toEqual([]);
});
