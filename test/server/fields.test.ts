import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import ts from "typescript";
import { Encoder, Engine } from "../../src/engine/index.ts";
import { ApiServer } from "../../src/server/index.ts";
import { root } from "../support/sources.ts";
import { writeTinyBert } from "../support/tiny-bert.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-fields-"));
const shape = { layers: 1, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const path = writeFolder(folder, tinyModel(1, { ...shape, context: 512, tied: true }));
let engine: Engine;
let encoder: Encoder;
let server: ApiServer;

beforeAll(async () => {
  engine = await Engine.load(path);
  encoder = await Encoder.load(writeTinyBert(join(folder, "bert")));
  const embeddings = { model: "bert", encoder };
  server = new ApiServer(engine, { model: "tiny", port: 0, embeddings });
});

afterAll(async () => {
  await server.stop(0);
  await encoder[Symbol.asyncDispose]();
  await engine[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

/** Fields of an interface of the openai client's declarations. */
function fieldsOf(file: string, name: string): string[] {
  const declarations = join(root, "node_modules", "openai", "resources", `${file}.d.ts`);
  const text = readFileSync(declarations, "utf8");
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest);
  for (const statement of source.statements)
    if (ts.isInterfaceDeclaration(statement) && statement.name.text === name)
      return statement.members.map((member) => (member.name as ts.Identifier).text);
  throw new Error(`${file}.d.ts has no interface ${name}`);
}

const messages = [{ role: "user", content: "hello w" }];
/** A value of each field that is honoured; what they do, other tests say. */
const shared = {
  frequency_penalty: 0.5,
  logit_bias: { "3": 1 },
  max_tokens: 2,
  n: 2,
  presence_penalty: 0.5,
  seed: 7,
  stop: ["x"],
  stream: false,
  stream_options: { include_usage: true, include_obfuscation: false },
  temperature: 0.5,
  top_p: 0.9,
  user: "someone",
};
/** Values of fields that ask for nothing more than every answer is, beside null. */
const asksNothing: Record<string, unknown[]> = {
  audio: [],
  dimensions: [16],
  echo: [false],
  function_call: ["none", "auto"],
  functions: [[]],
  modalities: [["text"]],
  moderation: [],
  prediction: [],
  prompt_cache_options: [{ mode: "implicit" }],
  prompt_cache_retention: ["in_memory"],
  reasoning_effort: [],
  service_tier: ["auto", "default"],
  store: [false],
  suffix: [""],
  verbosity: ["medium"],
  web_search_options: [],
};

const apis: [at: string, file: string, name: string, body: object, honoured: object][] = [
  [
    "/v1/chat/completions",
    "chat/completions/completions",
    "ChatCompletionCreateParamsBase",
    { model: "tiny", messages, max_tokens: 2 },
    {
      ...shared,
      logprobs: true,
      max_completion_tokens: 2,
      metadata: { what: "a test" },
      parallel_tool_calls: true,
      prompt_cache_key: "some",
      response_format: { type: "text" },
      safety_identifier: "someone",
      tool_choice: "none",
      tools: null,
      top_logprobs: null,
    },
  ],
  [
    "/v1/completions",
    "completions",
    "CompletionCreateParamsBase",
    { model: "tiny", prompt: "hello", max_tokens: 2 },
    { ...shared, n: 1, best_of: 1, logprobs: 2 },
  ],
  [
    "/v1/embeddings",
    "embeddings",
    "EmbeddingCreateParams",
    { model: "bert", input: "hello" },
    { encoding_format: "base64", user: "someone" },
  ],
];

describe.each(apis)("%s", (at, file, name, body, honoured) => {
  const fields = fieldsOf(file, name);
  const ask = (more: object) =>
    fetch(`${server.url}${at}`, { method: "POST", body: JSON.stringify({ ...body, ...more }) });

  test("honours what it says, by the names of the openai client", async () => {
    expect(fields).toEqual(expect.arrayContaining(Object.keys(honoured)));
    for (const [field, value] of Object.entries(honoured)) {
      const response = await ask({ [field]: value });
      expect([field, response.status, await response.text()]).toEqual([
        field,
        200,
        expect.any(String),
      ]);
    }
  });

  const others = fields.filter((field) => !(field in honoured) && !(field in body));

  test("takes every field at its default, or null", async () => {
    for (const field of others)
      for (const value of [null, ...asksNothing[field]])
        expect([field, value, (await ask({ [field]: value })).status]).toEqual([field, value, 200]);
    for (const field of Object.keys(honoured))
      expect([field, (await ask({ [field]: null })).status]).toEqual([field, 200]);
    expect((await ask({ model: null })).status).toBe(200);
  });

  test("refuses every other field by its name", async () => {
    expect(others.length).toBeGreaterThan(0);
    for (const field of others) {
      const response = await ask({ [field]: true });
      const { error } = (await response.json()) as { error: { param: string; message: string } };
      expect([field, response.status, error.param]).toEqual([field, 400, field]);
      expect(error.message).toContain(field);
    }
  });
});
