import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";
import { llamaTargets, merged, tinyAdapter, writeAdapter } from "../support/tiny-lora.ts";
import { entry, fed, flashbun } from "./run.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-cli-model-"));
afterAll(() => rmSync(folder, { recursive: true }));
const shape = { layers: 1, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const tiny = tinyModel(2, { ...shape, context: 128, tied: true });
const model = writeFolder(join(folder, "tiny"), tiny);
const greedy = ["--max-tokens", "5", "--temperature", "0"];

test("generate answers, says what it took, and writes JSON", async () => {
  const json = join(folder, "answer.json");
  const said = await flashbun("generate", model, "hello", ...greedy, "--json", json);
  expect(said.code).toBe(0);
  expect(said.err).toMatch(/tiny on .*: 1 layers?, .* MB of weights, .* pages of 16 tokens/);
  expect(said.err).toMatch(/prompt tokens, first token after \d+ ms, 5 tokens at [\d.]+ tokens\/s/);
  const answer = JSON.parse(readFileSync(json, "utf8")) as { text: string; tokens: number[] };
  expect(answer.tokens.length).toBe(5);
  expect(said.out).toBe(`${answer.text}\n`);
  // The same from standard input, and nothing but the answer.
  const quiet = await fed("hello", "generate", model, "-", ...greedy, "--quiet");
  expect(quiet).toEqual({ out: said.out, err: "", code: 0 });
});

test("chat remembers what was said, and ends with its input", async () => {
  const one = await fed("hello\n", "chat", model, ...greedy);
  expect(one.code).toBe(0);
  const two = await fed("hello\nhello\n", "chat", model, ...greedy);
  expect(two.out.startsWith(one.out)).toBe(true);
  expect(two.out.length).toBeGreaterThan(one.out.length);
});

test("generate, chat and serve go through an adapter", async () => {
  const adapter = tinyAdapter(1, tiny, llamaTargets);
  const lora = writeAdapter(join(folder, "lora"), adapter);
  const whole = writeFolder(join(folder, "merged"), merged(tiny, adapter));
  const said = await flashbun("generate", whole, "hello", ...greedy, "--quiet");
  const through = await flashbun("generate", model, "hello", ...greedy, "--lora", lora);
  expect(through.out).toBe(said.out);
  expect(through.err).toContain("tokens, 1 adapter; loaded");
  expect((await flashbun("generate", model, "hello", ...greedy)).out).not.toBe(said.out);
  const talk = await fed("hello\n", "chat", model, ...greedy, "--lora", `it=${lora}`);
  expect(talk.out).toBe((await fed("hello\n", "chat", whole, ...greedy)).out);
  const wrong: [string[], RegExp, code?: number][] = [
    [["generate", model, "a", "--lora", lora, "--lora", `b=${lora}`], /--lora must be given once/],
    [
      ["serve", model, "--lora", lora, "--lora", lora],
      /--lora must be NAME=FOLDER, each name once/,
    ],
    [["serve", model, "--lora", `tiny=${lora}`, "--port", "0"], /a name that no adapter has/],
  ];
  for (const [command, sentence, expected = 2] of wrong) {
    const { code, err } = await flashbun(...command);
    expect(err).toMatch(sentence);
    expect(code).toBe(expected);
  }
});

test("serve answers until it is told to stop", async () => {
  const child = Bun.spawn([process.execPath, entry, "serve", model, "--port", "0"], {
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, FLASHBUN_API_KEY: "key" },
  });
  let err = "";
  const reader = child.stderr.pipeThrough(new TextDecoderStream()).getReader();
  while (!/at http\S+\/v1\n/.test(err)) {
    const { value, done } = await reader.read();
    if (done) break;
    err += value;
  }
  const [url] = /http\S+\/v1/.exec(err)!;
  const post = (headers: Record<string, string>) =>
    fetch(`${url}/completions`, { method: "POST", headers, body: JSON.stringify({ prompt: "a" }) });
  expect((await post({})).status).toBe(401);
  const response = await post({ authorization: "Bearer key" });
  expect(((await response.json()) as { model: string }).model).toBe("tiny");
  child.kill("SIGTERM");
  expect(await child.exited).toBe(0);
  const lines = (await new Response(child.stdout).text()).trim().split("\n");
  expect(lines.map((line) => (JSON.parse(line) as { status: number }).status)).toEqual([401, 200]);
});

describe("what is wrong is said in a line", () => {
  const cases: [args: string[], code: number, said: RegExp][] = [
    [["generate", model], 2, /missing required argument 'prompt'/],
    [["generate", model, "x", "--temperature", "-1"], 2, /a number from 0 to 100/],
    [["generate", model, "x", "--max-tokens", "0"], 2, /--max-tokens must be/],
    [["generate", model, "x", "--max-tokens", "1000"], 2, /--max-tokens must be/],
    [["generate", model, "x", "--json", "/absent/x.json"], 2, /--json/],
    [["serve", model, "--port", "70000"], 2, /--port must be an integer from 0 to 65535/],
    [["serve", model, "--device", "tpu"], 2, /--device must be cpu, auto or cuda:0/],
  ];
  test.each(cases)("%j", async (args, code, said) => {
    const got = await flashbun(...args);
    expect(got.err).toMatch(said);
    expect(got.code).toBe(code);
  });
});

test("bench prints figures of a closed loop and of arrivals, and writes them", async () => {
  const json = join(folder, "bench.json");
  const lengths = ["--prompt-tokens", "4-8", "--output-tokens", "5", "--warm-up", "2"];
  const load = ["bench", model, "--requests", "6", ...lengths, "--json", json];
  for (const how of [
    ["--clients", "3"],
    ["--rate", "50"],
    ["--samples", "3"],
  ]) {
    const said = await flashbun(...load, ...how);
    expect(said.code).toBe(0);
    expect(said.out).toMatch(/time between tokens +[\d.]+ ms p50, [\d.]+ ms p99\n/);
    const answers = how[0] === "--samples" ? 18 : 6;
    const { load: told, ...figures } = JSON.parse(readFileSync(json, "utf8")) as {
      load: { promptTokens: string };
      answers: number;
      outputTokens: number;
      promptTokens: number;
      steps: number;
    };
    expect([figures.answers, figures.outputTokens]).toEqual([answers, 5 * answers]);
    expect(figures.promptTokens).toBeGreaterThanOrEqual(4 * answers);
    expect(figures.promptTokens).toBeLessThanOrEqual(8 * answers);
    expect(told.promptTokens).toBe("4-8");
  }
}, 60_000);

test("bench runs a trace", async () => {
  const trace = join(folder, "trace.csv");
  const rows = ["0,5,3", "0.01,900,4", "0.02,7,2"].map((row) => {
    const [seconds, input, output] = row.split(",");
    return `2024-05-10 00:00:0${Number(seconds).toFixed(6)},${input},${output}`;
  });
  await Bun.write(trace, `TIMESTAMP,ContextTokens,GeneratedTokens\n${rows.join("\n")}\n`);
  const said = await flashbun(
    "bench",
    model,
    "--trace",
    trace,
    "--requests",
    "3",
    "--warm-up",
    "0",
  );
  expect(said.err).not.toMatch(/Fix:/);
  // The second keeps what its context holds.
  expect(said.out).toMatch(/output tokens +6, /);
}, 60_000);
