import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { serverUrl } from "../../src/cli/parse.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";
import { flashbun } from "./run.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-cli-given-"));
const taken = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
afterAll(() => {
  taken.stop();
  rmSync(folder, { recursive: true });
});
const shape = { layers: 1, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const path = writeFolder(join(folder, "tiny"), tinyModel(1, { ...shape, context: 64, tied: true }));

describe("what cannot be meant is said in one sentence, before a model is loaded", () => {
  const model =
    "model must be a Hugging Face folder, a .gguf file, org/name in the hub's cache, or smollm2";
  const beside = "must be beside --speculate";
  const lookup = ["--speculate", "prompt-lookup"];
  const ranks = ["--tp", "2"];
  const adapters = "with adapter_config.json in it";
  const saved = "Fix: give the folder in which PEFT saved it.";
  const cases: [args: string[], said: string][] = [
    [["serve", "nosuch"], `${model} (got "nosuch"). Fix: check the path, or hf download org/name.`],
    [
      ["generate", "no-such/model", "x"],
      `${model} (got "no-such/model"). Fix: check the path, or hf download no-such/model.`,
    ],
    [["chat", join(path, "config.json", "x")], model],
    [["bench", "nosuch"], model],
    [
      ["serve", path, "--speculate", "nosuch"],
      `--speculate must be prompt-lookup or a model's path (got "nosuch"). ` +
        "Fix: check the path, or hf download org/name.",
    ],
    [
      ["serve", path, "--embeddings", "nosuch"],
      '--embeddings must be a folder of a BERT or a decoder (got "nosuch"). Fix: check the path.',
    ],
    [
      ["serve", path, "--lora", "it=x"],
      `--lora must be NAME=FOLDER ${adapters} (got "it=x"). ${saved}`,
    ],
    [
      ["generate", path, "a", "--lora", "x"],
      `--lora must be FOLDER ${adapters} (got "x"). ${saved}`,
    ],
    [["chat", path, "--lora", path], `--lora must be FOLDER ${adapters}`],
    [["serve", "nosuch", "--random-weights"], "model must be one of smollm2-135m, "],
    [
      ["serve", "smollm2-135m", "--random-weights", "--speculate", "nosuch"],
      "--speculate must be one of smollm2-135m, ",
    ],
    [["serve", path, "--dcp", "2"], "--dcp must be 1 without --tp (got 2). Fix: give --tp 2 too."],
    [
      ["serve", path, "--dcp", "2", "--tp", "4"],
      "--dcp must be 1 or 4, as many ranks as --tp says (got 2). Fix: give --tp 2 too.",
    ],
    [
      ["serve", path, ...ranks, "--deterministic"],
      "--tp must be left out beside --deterministic (got 2). Fix: leave one of the two out.",
    ],
    [
      ["serve", path, ...ranks, "--dcp", "2", "--speculate", path, "--branches", "3,2"],
      '--branches must be left out beside --dcp (got "3,2"). Fix: leave one of the two out.',
    ],
    [
      ["generate", path, "x", ...lookup, "--branches", "3,2"],
      '--branches must be left out with prompt-lookup (got "3,2"). Fix: give --speculate a model.',
    ],
    [
      ["generate", path, "x", "--branches", "3,2"],
      `--branches ${beside} (got "3,2"). Fix: add --speculate MODEL.`,
    ],
    [
      ["generate", path, "x", "--draft-tokens", "3"],
      `--draft-tokens ${beside} (got 3). Fix: add --speculate prompt-lookup, or --speculate MODEL.`,
    ],
    [
      ["generate", path, "x", "--max-batch", "1024"],
      "--max-batch must be at most --token-budget, 512 (got 1024). " +
        "Fix: give --max-batch at most 512, or raise --token-budget to 1024 too.",
    ],
    [
      ["serve", path, "--port", String(taken.port)],
      `--port must be one at which nobody listens on 127.0.0.1 (got ${taken.port}). ` +
        "Fix: give another, or 0 for any that is free.",
    ],
    [
      ["serve", path, "--port", "0", "--host", "192.0.2.1"],
      '--host must be an address of this machine (got "192.0.2.1"). ' +
        "Fix: give 127.0.0.1 for this machine alone, or 0.0.0.0 for all that reach it.",
    ],
    [
      ["bench", "--url", "127.0.0.1:1"],
      '--url must be a URL with http:// or https:// (got "127.0.0.1:1"). ' +
        "Fix: give http://127.0.0.1:1/v1.",
    ],
  ];
  test.each(cases)("%j", async (args, said) => {
    const { code, out, err } = await flashbun(...args);
    expect(err).toStartWith(`flashbun: ${said}`);
    expect(err.trimEnd().split("\n").length).toBe(1);
    expect({ code, out }).toEqual({ code: 2, out: "" });
  });
});

test("a folder or a file that is no model is told from one, with what to give", async () => {
  const bare = join(folder, "bare");
  mkdirSync(bare);
  const said = async (model: string) => (await flashbun("generate", model, "x")).err;
  const none = `${bare}: it is no model's folder: it has no config.json. Fix: give `;
  expect(await said(bare)).toBe(`flashbun: ${none}a Hugging Face folder or a .gguf file.\n`);
  const gguf = join(bare, "it.gguf");
  writeFileSync(gguf, "GGU");
  expect(await said(bare)).toBe(`flashbun: ${none}${gguf}.\n`);
  expect(await said(join(path, "config.json"))).toBe(
    `flashbun: ${join(path, "config.json")}: it is one file of a model's folder, and no .gguf ` +
      `file. Fix: give the folder, ${path}.\n`,
  );
});

test("drafts of prompt-lookup may still be counted, and a budget raised with the batch", async () => {
  const drafts = ["--speculate", "prompt-lookup", "--draft-tokens", "3"];
  const batch = ["--max-batch", "600", "--token-budget", "600"];
  const said = await flashbun("generate", path, "x", "--max-tokens", "2", ...drafts, ...batch);
  expect(said.err).not.toContain("Fix:");
  expect(said.code).toBe(0);
});

test("an address of a server has its scheme; otherwise one is proposed", () => {
  for (const url of ["http://a:1/v1", "https://a/b/", "HTTP://a"]) expect(serverUrl(url)).toBe(url);
  const proposed: [given: string, fix: string][] = [
    ["localhost:8000", "http://localhost:8000/v1"],
    ["a/v1/", "http://a/v1"],
    ["ftp://a", "http://a/v1"],
    ["//a", "http://a/v1"],
    ["http://", "http://127.0.0.1:8000/v1, say"],
    ["", "http://127.0.0.1:8000/v1, say"],
  ];
  for (const [given, fix] of proposed)
    expect(() => serverUrl(given)).toThrow(`(got ${JSON.stringify(given)}). Fix: give ${fix}.`);
});

test("help says defaults once, and how ranks start", async () => {
  const { out } = await flashbun("bench", "--help");
  const text = out.replace(/\s+/g, " ");
  expect(text).toContain("or sharegpt (default: sharegpt) --output-tokens");
  expect(text).toContain("the same of answers (default: sharegpt) --shared-tokens");
  expect(text).toContain("each on a GPU, or on CPUs by mpirun (default: 1)");
  expect(text).toContain("on a GPU --max-batch contexts within 0.8)");
});
