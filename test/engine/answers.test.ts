import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import OpenAI from "openai";
import { Compile } from "typebox/schema";
import { Engine, type GenerateOptions, type Tool } from "../../src/engine/index.ts";
import { schemaRule } from "../../src/grammar/json-schema.ts";
import { Matcher } from "../../src/grammar/matcher.ts";
import { ApiServer } from "../../src/server/index.ts";
import { naiveLogits, tinyModel, writeFolder } from "../support/tiny-llama.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-answers-"));
const shape = { layers: 1, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const model = tinyModel(5, { ...shape, context: 2048, tied: false });
const template =
  "{% for m in messages %}<user>{{ m.content }}{% for c in m.tool_calls or [] %}" +
  "{{ c.function.arguments.city }}{% endfor %}{% endfor %}" +
  "{% if tools %}{{ tools | tojson }} in <tool_call>{% endif %}";
let engine: Engine;
let server: ApiServer;
let client: OpenAI;

beforeAll(async () => {
  const path = writeFolder(join(folder, "tools"), model);
  writeFileSync(join(path, "tokenizer_config.json"), JSON.stringify({ chat_template: template }));
  engine = await Engine.load(path, { maxBatch: 16 });
  server = new ApiServer(engine, { model: "tiny", port: 0 });
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
});

afterAll(async () => {
  await server.stop(0);
  await engine[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

const schema = {
  type: "object",
  properties: {
    city: { type: "string", maxLength: 5 },
    days: { type: "integer", minimum: 1, maximum: 14 },
    kind: { enum: ["sun", "rain", null] },
    list: { type: "array", items: { type: "boolean" }, maxItems: 3 },
  },
  required: ["city", "kind"],
} as const;
const validator = Compile(schema as never);

test("answers in JSON fit their schema, beside others that are free", async () => {
  const prompt = { tokens: [7, 70, 71], maxTokens: 400 };
  const free = () => engine.generate({ ...prompt, sampling: { temperature: 0 } }).text();
  const before = await free();
  const answers = Array.from({ length: 12 }, async (_, seed) => {
    const penalty = seed % 2 === 0 ? { presencePenalty: 1 } : {};
    const generation = engine.generate({
      ...prompt,
      json: schema,
      sampling: { seed, temperature: 1.5, ...penalty },
    });
    const text = await generation.text();
    expect(generation.finishReason, text).toBe("stop");
    return text;
  });
  const [beside, ...texts] = await Promise.all([free(), ...answers]);
  expect(beside).toBe(before);
  expect(new Set(texts).size).toBe(12);
  for (const text of texts) expect([text, validator.Check(JSON.parse(text))]).toEqual([text, true]);
});

test("each token is the likeliest that the schema allows, by f64 arithmetic", async () => {
  const prompt = [7, 70, 71];
  const tokens: number[] = [];
  const sampling = { temperature: 0 };
  const options = { tokens: prompt, maxTokens: 24, json: schema, sampling };
  for await (const { token } of engine.generate(options)) tokens.push(token);
  const matcher = new Matcher(schemaRule(schema, "json"));
  let state = matcher.start;
  tokens.forEach((token, i) => {
    const logits = naiveLogits(model, [...prompt, ...tokens.slice(0, i)]).at(-1)!;
    const best = logits
      .map((logit, id) => ({ id, logit, bytes: engine.tokenizer.bytesOf(id)! }))
      .filter(({ id, bytes }) => !engine.tokenizer.isSpecial(id) && matcher.run(state, bytes))
      .sort((a, b) => b.logit - a.logit);
    expect(best[0].id).toBe(token);
    state = matcher.run(state, best[0].bytes)!;
  });
});

test("any object, and a value that may go on ends by an end token", async () => {
  const sampling = { temperature: 1, seed: 4 };
  const object = await engine
    .generate({ prompt: "a", json: true, maxTokens: 900, sampling })
    .text();
  expect(typeof JSON.parse(object)).toBe("object");
  const generation = engine.generate({ prompt: "a", json: { minimum: 10 }, sampling });
  expect(Number(await generation.text())).toBeGreaterThanOrEqual(10);
  expect(generation.finishReason).toBe("stop");
});

const tools: Tool[] = [
  { type: "function", function: { name: "weather", parameters: schema } },
  { type: "function", function: { name: "now" } },
];
const messages = [{ role: "user" as const, content: "hello" }];

describe("calls of tools", () => {
  test("one that must come, of one name or of any", async () => {
    for (const toolChoice of [{ name: "weather" }, "required"] as const) {
      let said = "";
      let name = "";
      let given = "";
      const sampling = { temperature: 1, seed: 3 };
      const options = { messages, tools, toolChoice, maxTokens: 900, sampling };
      for await (const { text, calls = [] } of engine.generate(options)) {
        said += text;
        for (const call of calls) {
          name += call.name ?? "";
          given += call.arguments;
        }
      }
      expect(said).toBe("");
      expect(["weather", "now"]).toContain(name);
      const value: unknown = JSON.parse(given);
      if (name === "weather") expect(validator.Check(value)).toBe(true);
    }
  });

  test("by the openai client, whole and streamed alike", async () => {
    const asked = {
      model: "tiny",
      messages,
      tools: tools as OpenAI.ChatCompletionTool[],
      tool_choice: { type: "function" as const, function: { name: "weather" } },
      seed: 6,
      max_tokens: 900,
    };
    const whole = await client.chat.completions.create(asked);
    const [{ message, finish_reason: reason }] = whole.choices;
    const [call] = message.tool_calls as OpenAI.ChatCompletionMessageFunctionToolCall[];
    expect([message.content, reason, call.type]).toEqual([null, "tool_calls", "function"]);
    expect(call.id).toMatch(/^call_/);
    expect(validator.Check(JSON.parse(call.function.arguments))).toBe(true);
    const stream = client.chat.completions.stream(asked);
    let pieces = 0;
    stream.on("tool_calls.function.arguments.delta", () => void pieces++);
    const final = await stream.finalChatCompletion();
    const [streamed] = final.choices[0].message.tool_calls!;
    expect(streamed).toMatchObject({ function: call.function });
    expect(final.choices[0].finish_reason).toBe("tool_calls");
    expect(pieces).toBeGreaterThan(3);
  });

  test("a conversation with a call's arguments as JSON", async () => {
    const called = {
      id: "1",
      type: "function",
      function: { name: "f", arguments: '{"city":"X"}' },
    };
    const turn = { role: "assistant", content: "", tool_calls: [called] };
    const text = engine.chatTemplate!.render({ messages: [turn] });
    expect(text).toBe("<user>X");
  });
});

test("response_format, by the openai client", async () => {
  const asked = { model: "tiny", messages, seed: 1, max_tokens: 900 };
  const json_schema = { name: "weather", strict: true, schema };
  const formats = [{ type: "json_object" as const }, { type: "json_schema" as const, json_schema }];
  for (const response_format of formats) {
    const answer = await client.chat.completions.create({ ...asked, response_format });
    const value: unknown = JSON.parse(answer.choices[0].message.content!);
    if (response_format.type === "json_schema") expect(validator.Check(value)).toBe(true);
  }
});

describe("what is wrong is said", () => {
  test("of requests", () => {
    const wrong: [GenerateOptions, RegExp][] = [
      [{ json: { multipleOf: 3 } }, /json\.multipleOf must be absent/],
      [{ json: { $ref: "#" } }, /json must be a schema that no|json must be one/],
      [{ json: true, tools }, /json must be absent beside tools/],
      [{ toolChoice: "required", tools: [] }, /tools must be one or more/],
      [{ toolChoice: { name: "x" } }, /tools must be one or more/],
      [{ toolChoice: { name: "x" }, tools }, /toolChoice must be a tool of weather, now/],
      [{ tools: [{}] as never }, /tools\[0\] must be/],
      [{ maxToolCalls: 0 }, /maxToolCalls must be/],
    ];
    for (const [options, said] of wrong)
      expect(() => engine.generate({ messages, ...options }), JSON.stringify(options)).toThrow(
        said,
      );
    expect(engine.stats().requests).toBe(0);
  });

  test("of bodies, by the names of their fields", async () => {
    const pattern = { ...tools[0].function, parameters: { properties: { a: { pattern: "a" } } } };
    const wrong: [body: object, param: string | RegExp][] = [
      [{ response_format: { type: "xml" } }, "response_format"],
      [{ response_format: { type: "json_schema" } }, "response_format"],
      [
        { response_format: { type: "json_schema", json_schema: { name: "x", schema: false } } },
        "response_format",
      ],
      [{ tools: [{ type: "retrieval" }] }, "tools"],
      [{ tools, tool_choice: "some" }, "tool_choice"],
      [{ tools: [{ ...tools[0], function: { ...tools[0].function, strict: true } }] }, /strict$/],
      [
        { tools: [{ type: "function", function: pattern }], tool_choice: "required" },
        "tools[0].function.parameters.properties.a.pattern",
      ],
    ];
    for (const [body, param] of wrong) {
      const response = await fetch(`${server.url}/v1/chat/completions`, {
        method: "POST",
        body: JSON.stringify({ messages, ...body }),
      });
      const { error } = (await response.json()) as { error: { param: string } };
      expect(response.status).toBe(400);
      expect(error.param).toMatch(
        typeof param === "string" ? new RegExp(`^${RegExp.escape(param)}$`) : param,
      );
    }
  });

  test("of a model that shows no tools", async () => {
    await using plain = await Engine.load(writeFolder(join(folder, "plain"), model));
    expect(() => plain.generate({ messages, tools })).toThrow(/tools must be absent for a model/);
  });
});
