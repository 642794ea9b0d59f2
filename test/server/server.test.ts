import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import OpenAI from "openai";
import { Encoder, Engine } from "../../src/engine/index.ts";
import { ApiServer } from "../../src/server/index.ts";
import { breakDevice } from "../support/broken-device.ts";
import { writeTinyBert } from "../support/tiny-bert.ts";
import { naiveGreedy, tinyModel, writeFolder } from "../support/tiny-llama.ts";
import { llamaTargets, merged, tinyAdapter, writeAdapter } from "../support/tiny-lora.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-server-"));
const shape = { layers: 1, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const model = tinyModel(1, { ...shape, context: 512, tied: true });
const path = writeFolder(folder, model);
const key = "secret";
const lines: string[] = [];
let engine: Engine;
let server: ApiServer;
let client: OpenAI;

beforeAll(async () => {
  engine = await Engine.load(path);
  const log = (line: string) => void lines.push(line);
  server = new ApiServer(engine, { model: "tiny", port: 0, apiKey: key, maxRequests: 8, log });
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: key, maxRetries: 0 });
});

afterAll(async () => {
  await server.stop(0);
  await engine[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

const messages = [{ role: "user" as const, content: "hello w" }];
const greedy = { model: "tiny", temperature: 0, max_tokens: 8 };
const post = (at: string, body: unknown, headers: Record<string, string> = {}) =>
  fetch(`${server.url}${at}`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });

/** What the engine says of the same prompt, without a server. */
async function direct(maxTokens = 8): Promise<string> {
  return await engine.generate({ messages, maxTokens, sampling: { temperature: 0 } }).text();
}

describe("the openai client", () => {
  test("lists the model", async () => {
    const models = await client.models.list();
    expect(models.data.map(({ id }) => id)).toEqual(["tiny"]);
  });

  test("gets a whole answer", async () => {
    const answer = await client.chat.completions.create({ ...greedy, messages });
    const { role, content } = answer.choices[0].message;
    expect([role, content]).toEqual(["assistant", await direct()]);
    expect(answer.choices[0].finish_reason).toBe("length");
    const { prompt_tokens, completion_tokens, total_tokens } = answer.usage!;
    expect(completion_tokens).toBe(8);
    expect(total_tokens).toBe(prompt_tokens + 8);
  });

  test("gets a stream, with usage at its end", async () => {
    const stream = await client.chat.completions.create({
      ...greedy,
      messages,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    const reasons: (string | null)[] = [];
    let tokens: number | undefined;
    for await (const { choices, usage } of stream) {
      text += choices[0]?.delta.content ?? "";
      if (choices.length > 0) reasons.push(choices[0].finish_reason);
      tokens = usage?.completion_tokens;
    }
    expect(text).toBe(await direct());
    expect(reasons.filter((reason) => reason !== null)).toEqual(["length"]);
    expect(tokens).toBe(8);
  });

  test("gets several answers to one prompt, and a stop string", async () => {
    const text = await direct();
    const stop = text.slice(3, 5);
    const answer = await client.chat.completions.create({ ...greedy, messages, n: 3, stop });
    const cut = text.slice(0, text.indexOf(stop));
    const got = answer.choices.map(({ index, message, finish_reason: reason }) => [
      index,
      message.content,
      reason,
    ]);
    expect(got).toEqual([0, 1, 2].map((index) => [index, cut, "stop"]));
  });

  test("goes on with a text", async () => {
    const answer = await client.completions.create({ ...greedy, prompt: "hello" });
    const prompt = engine.generate({
      prompt: "hello",
      maxTokens: 8,
      sampling: { temperature: 0 },
    });
    expect(answer.choices[0].text).toBe(await prompt.text());
  });

  test("goes on with several texts, or lists of token ids, n times each", async () => {
    const texts = ["hello", "w", "hello w"];
    const alone = await Promise.all(
      texts.map((prompt) => client.completions.create({ ...greedy, prompt, logprobs: 0 })),
    );
    const said = (answer: OpenAI.Completion) => answer.choices.map(({ text }) => text);
    const expected = alone.flatMap((answer) => [said(answer)[0], said(answer)[0]]);
    const ids = texts.map((text) => [...engine.tokenizer.encode(text, { addSpecial: true })]);
    for (const prompt of [texts, ids]) {
      const asked = { ...greedy, prompt, n: 2, best_of: 2, logprobs: 0 };
      const answer = await client.completions.create(asked);
      expect(answer.choices.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4, 5]);
      expect(said(answer)).toEqual(expected);
      const promptTokens = ids.reduce((sum, { length }) => sum + length, 0);
      expect(answer.usage).toMatchObject({
        prompt_tokens: promptTokens,
        completion_tokens: 48,
        total_tokens: promptTokens + 48,
      });
      const streamed = expected.map(() => "");
      const offsets = expected.map((): number[] => []);
      for await (const { choices } of await client.completions.create({ ...asked, stream: true }))
        for (const { index, text, logprobs } of choices) {
          streamed[index] += text;
          offsets[index].push(...(logprobs?.text_offset ?? []));
        }
      expect(streamed).toEqual(expected);
      expect(offsets[5]).toEqual(alone[2].choices[0].logprobs!.text_offset!);
    }
    const seeded = { model: "tiny", max_tokens: 8, temperature: 2, seed: 3, n: 2 };
    const [one, both] = await Promise.all(
      ["w", ["hello", "w"]].map((prompt) => client.completions.create({ ...seeded, prompt })),
    );
    expect(said(both).slice(2)).toEqual(said(one));
  });

  test("gets log-probabilities, whole and in a stream", async () => {
    const asked = { ...greedy, messages, logprobs: true, top_logprobs: 2 };
    const whole = await client.chat.completions.create(asked);
    const content = whole.choices[0].logprobs!.content!;
    expect(content.length).toBe(8);
    for (const { token, logprob, top_logprobs: top } of content) {
      expect([top.length, top[0].token, top[0].logprob]).toEqual([2, token, logprob]);
      expect(top[1].logprob).toBeLessThanOrEqual(logprob);
    }
    const streamed: unknown[] = [];
    for await (const { choices } of await client.chat.completions.create({
      ...asked,
      stream: true,
    }))
      streamed.push(...(choices[0].logprobs?.content ?? []));
    expect(streamed).toEqual(content);
    const plain = await client.chat.completions.create({ ...greedy, messages });
    expect(plain.choices[0].logprobs).toBeNull();
  });

  test("gets log-probabilities of a text's tokens, whole and in a stream", async () => {
    const asked = { ...greedy, prompt: "hello", logprobs: 2 };
    const { choices } = await client.completions.create(asked);
    const [{ text, logprobs }] = choices;
    const { tokens, token_logprobs: own, top_logprobs: top, text_offset: offsets } = logprobs!;
    expect(tokens!.join("")).toBe(text);
    expect(offsets).toEqual(tokens!.map((_, i) => tokens!.slice(0, i).join("").length));
    tokens!.forEach((token, i) => {
      expect([Object.keys(top![i]).length, top![i][token]]).toEqual([2, own![i]]);
      expect(Math.max(...Object.values(top![i]))).toBe(own![i]);
    });
    const streamed: typeof logprobs = { tokens: [], text_offset: [] };
    for await (const piece of await client.completions.create({ ...asked, stream: true })) {
      streamed.tokens!.push(...(piece.choices[0].logprobs?.tokens ?? []));
      streamed.text_offset!.push(...(piece.choices[0].logprobs?.text_offset ?? []));
    }
    expect(streamed).toEqual({ tokens, text_offset: offsets });
    const alone = await client.completions.create({ ...asked, logprobs: 0 });
    expect(alone.choices[0].logprobs!.top_logprobs).toEqual(
      tokens!.map((token, i) => ({ [token]: own![i] })),
    );
  });

  test("is told what is wrong", async () => {
    const asked = client.chat.completions.create({ ...greedy, messages, temperature: 101 });
    const error = await asked.catch((failure: unknown) => failure);
    expect(error).toBeInstanceOf(OpenAI.BadRequestError);
    expect((error as { param: string }).param).toBe("temperature");
  });
});

describe("refused", () => {
  const chat = "/v1/chat/completions";
  const texts = "/v1/completions";
  const cases: [what: string, at: string, body: unknown, status: number, said: RegExp][] = [
    ["no JSON", chat, "{", 400, /the body is no JSON/],
    ["a list", chat, [], 400, /messages must be a list/],
    ["a field that is not known", chat, { messages, functions: [{}] }, 400, /functions/],
    ["no messages", chat, {}, 400, /messages/],
    ["messages without a role", chat, { messages: [{}] }, 400, /messages\[0\]\.role/],
    ["no content", chat, { messages: [{ role: "user" }] }, 400, /messages\[0\]\.content must be/],
    ["a number", chat, { messages: [{ role: "user", content: 5 }] }, 400, /a list of text parts/],
    ["calls of no tools", chat, { messages, tool_choice: "required" }, 400, /tools must be one or/],
    ["too many tokens", chat, { messages, max_tokens: 1e9 }, 400, /Fix: give max_tokens a whole/],
    ["another model", chat, { messages, model: "gpt" }, 404, /model "gpt" is not here/],
    ["another path", "/v1/nothing", {}, 404, /there is no \/v1\/nothing/],
    ["another method", "/v1/models", {}, 405, /takes GET, not POST/],
    ["too long a prompt", texts, { prompt: "a".repeat(600) }, 400, /prompt tokens/],
    ["one of them", texts, { prompt: ["a", "a".repeat(600)] }, 400, /^prompt\[1\] tokens must/],
    ["a token id", texts, { prompt: [[1], [2, 1e6]] }, 400, /^prompt\[1\]\[1\] must be/],
    ["prompts of two kinds", texts, { prompt: ["a", [1]] }, 400, /prompt must be a text or token/],
    ["no prompts", texts, { prompt: [] }, 400, /prompt must be a text or token ids, or a list/],
    ["too many prompts", texts, { prompt: Array(9).fill("a") }, 429, /at most 8 may/],
    ["the best of more", texts, { prompt: "a", n: 2, best_of: 3 }, 400, /best_of must be n/],
  ];
  test.each(cases)("%s", async (_, at, body, status, said) => {
    const response = await post(at, body);
    expect(response.status).toBe(status);
    expect(((await response.json()) as { error: { message: string } }).error.message).toMatch(said);
  });

  test("a wrong key, and none", async () => {
    for (const authorization of ["Bearer wrong", ""])
      expect((await post(chat, { messages }, { authorization })).status).toBe(401);
    // Health and metrics are for machines that have none.
    expect((await fetch(`${server.url}/health`)).status).toBe(200);
  });

  test("more answers than are allowed, which may come again later", async () => {
    const long = { ...greedy, messages, max_tokens: 400, ignore_eos: true, stream: true };
    const leave = new AbortController();
    const open = await Promise.all(
      [5, 3].map((n) =>
        fetch(`${server.url}${chat}`, {
          method: "POST",
          headers: { authorization: `Bearer ${key}` },
          body: JSON.stringify({ ...long, n }),
          signal: leave.signal,
        }),
      ),
    );
    expect(open.map(({ status }) => status)).toEqual([200, 200]);
    const response = await post(chat, { messages });
    expect([response.status, response.headers.get("retry-after")]).toEqual([429, "1"]);
    leave.abort();
    await settled();
    expect((await post(chat, { ...greedy, messages })).status).toBe(200);
    expect((await post(chat, { ...greedy, messages, n: 9 })).status).toBe(429);
  });

  test("pages of other origins", async () => {
    const response = await post(chat, { messages }, { origin: "https://elsewhere.example" });
    expect(response.status).toBe(403);
    const own = { ...greedy, messages };
    expect((await post(chat, own, { origin: server.url })).status).toBe(200);
  });

  test("a key that is empty", () => {
    expect(() => new ApiServer(engine, { model: "tiny", port: 0, apiKey: "" })).toThrow(/apiKey/);
  });

  test("a body that is too large", async () => {
    const small = new ApiServer(engine, { model: "tiny", port: 0, maxBodyBytes: 100 });
    const response = await fetch(`${small.url}/v1/completions`, {
      method: "POST",
      body: JSON.stringify({ prompt: "a".repeat(100) }),
    });
    expect(response.status).toBe(413);
    await small.stop(0);
  });
});

/** Waits until no request is left. */
async function settled(): Promise<void> {
  const deadline = performance.now() + 5000;
  while (engine.stats().requests > 0 && performance.now() < deadline) await Bun.sleep(5);
  expect(engine.stats().requests).toBe(0);
}

test("contents in text parts are one text; other parts are refused by name", async () => {
  const parts = (...content: object[]) => ({ ...greedy, messages: [{ role: "user", content }] });
  const text = (piece: string) => ({ type: "text", text: piece });
  const response = await post("/v1/chat/completions", parts(text("hel"), text("lo w")));
  const { choices } = (await response.json()) as { choices: { message: { content: string } }[] };
  expect(choices[0].message.content).toBe(await direct());
  const image = { type: "image_url", image_url: { url: "x" } };
  const refused = await post("/v1/chat/completions", parts(text("a"), image));
  expect(refused.status).toBe(400);
  expect(await refused.text()).toMatch(/messages\[0\]\.content\[1\] is of type/);
});

test("adapters are models to clients", async () => {
  const two = [2, 3].map((seed) => tinyAdapter(seed, model, llamaTargets));
  const [a, b] = two.map((each, i) => writeAdapter(join(folder, `adapter ${i}`), each));
  await using served = await Engine.load(path, { adapters: { "org/a": a, b } });
  expect(() => new ApiServer(served, { model: "b", port: 0 })).toThrow(/no adapter has/);
  const own = new ApiServer(served, { model: "tiny", port: 0 });
  const to = new OpenAI({ baseURL: `${own.url}/v1`, apiKey: "none", maxRetries: 0 });
  const names = ["tiny", "org/a", "b"];
  const listed = (await to.models.list()).data as { id: string; parent?: string }[];
  expect(listed.map(({ id, parent }) => [id, parent])).toEqual(
    names.map((name) => [name, name === "tiny" ? undefined : "tiny"]),
  );
  expect((await to.models.retrieve("org/a")).id).toBe("org/a");
  const exact = [model, ...two.map((each) => merged(model, each))];
  const prompt = [3, 4, 5, 6, 7];
  const ask = async (name: string, n: number) => {
    const body = { model: name, prompt, max_tokens: 8, temperature: 0, n, ignore_eos: true };
    const answer = await to.completions.create(body as OpenAI.CompletionCreateParamsNonStreaming);
    expect(answer.model).toBe(name);
    return answer.choices.map(({ text }) => text);
  };
  const texts = await Promise.all(names.map((name) => ask(name, 2)));
  for (const [i, [first, second]] of texts.entries()) {
    const { tokens } = naiveGreedy(exact[i], prompt, 8);
    expect(first).toBe(served.tokenizer.decode(tokens));
    expect(second).toBe(first);
  }
  const chat = await to.chat.completions.create({ ...greedy, model: "b", messages });
  const same = { messages, maxTokens: 8, sampling: { temperature: 0 }, adapter: "b" };
  expect(chat.choices[0].message.content).toBe(await served.generate(same).text());
  const unknown = ask("other", 1).catch(String);
  expect(await unknown).toMatch(/404 model "other" is not here\. Fix: ask for tiny, org\/a, b\./);
  expect(await (await fetch(`${own.url}/metrics`)).text()).toContain("flashbun_adapters 2");
  await own.stop(0);
});

test("vectors of texts, by the openai client", async () => {
  await using encoder = await Encoder.load(writeTinyBert(join(folder, "bert")));
  const embeddings = { model: "bert", encoder };
  const own = new ApiServer(engine, { model: "tiny", port: 0, embeddings });
  const to = new OpenAI({ baseURL: `${own.url}/v1`, apiKey: "none", maxRetries: 0 });
  const input = ["hello", "a longer text"];
  const expected = await encoder.embed(input);
  const names = (await to.models.list()).data.map(({ id }) => id);
  expect(names).toEqual(["tiny", "bert"]);
  // The client asks for base64 by itself.
  for (const format of [undefined, "float"] as const) {
    const asked = { model: "bert", input, ...(format && { encoding_format: format }) };
    const { data, usage } = await to.embeddings.create(asked);
    data.forEach(({ embedding, index }) => {
      expect(embedding.length).toBe(encoder.dimensions);
      embedding.forEach((value, i) => expect(value).toBeCloseTo(expected[index][i], 6));
    });
    expect(usage.total_tokens).toBe(usage.prompt_tokens);
  }
  const one = await to.embeddings.create({ model: "bert", input: [1, 2, 3] });
  expect([one.data.length, one.usage.prompt_tokens]).toEqual([1, 3]);
  const refused: [body: object, status: number, said: RegExp][] = [
    [{ input: "" }, 400, /input\[0\] tokens must be/],
    [{ input: "a".repeat(40) }, 400, /input\[0\] tokens must be an integer from 1 to 32/],
    [{ input: [] }, 400, /input must be a text or token ids/],
    [{ input: "a", dimensions: 3 }, 400, /dimensions/],
    [{ input: "a", model: "tiny" }, 404, /ask for bert/],
  ];
  for (const [body, status, said] of refused) {
    const options = { method: "POST", body: JSON.stringify(body) };
    const response = await fetch(`${own.url}/v1/embeddings`, options);
    expect([response.status, await response.text()]).toEqual([status, expect.stringMatching(said)]);
  }
  await own.stop(0);
  expect((await post("/v1/embeddings", { input: "a" })).status).toBe(404);
});

test("one model is told by its name, and a head is a get without its body", async () => {
  const model = await client.models.retrieve("tiny");
  expect(model).toMatchObject({ id: "tiny", max_model_len: 512 });
  expect((await fetch(`${server.url}/health`, { method: "HEAD" })).status).toBe(200);
});

test("defaults fit what is left of the context", async () => {
  const prompt = Array.from({ length: 505 }, (_, i) => i % 200);
  const response = await post("/v1/completions", { prompt, temperature: 0, ignore_eos: true });
  const { usage } = (await response.json()) as { usage: { completion_tokens: number } };
  expect(usage.completion_tokens).toBe(7);
  const long = await post("/v1/completions", { prompt, max_tokens: 8 });
  const { error } = (await long.json()) as { error: { param: string; message: string } };
  expect([error.param, error.message]).toEqual([
    "max_tokens",
    expect.stringMatching(/^max_tokens/),
  ]);
});

test("a client that leaves frees its pages", async () => {
  const leave = new AbortController();
  const body = JSON.stringify({
    ...greedy,
    messages,
    max_tokens: 450,
    ignore_eos: true,
    stream: true,
  });
  const headers = { authorization: `Bearer ${key}` };
  const response = await fetch(`${server.url}/v1/chat/completions`, {
    method: "POST",
    headers,
    body,
    signal: leave.signal,
  });
  const reader = response.body!.getReader();
  await reader.read();
  leave.abort();
  await settled();
  expect(engine.stats().generatedTokens).toBeGreaterThan(0);
});

test("metrics are Prometheus's, and each request is a line of JSON", async () => {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  expect(text).toMatch(/^# TYPE flashbun_generated_tokens_total counter$/m);
  expect(text).toMatch(/^flashbun_generated_tokens_total [1-9]\d*$/m);
  const response = await post("/v1/completions", { prompt: "a" }, { "x-request-id": "mine" });
  expect(response.headers.get("x-request-id")).toBe("mine");
  const line = JSON.parse(lines.at(-1)!) as Record<string, unknown>;
  expect(line).toMatchObject({ id: "mine", method: "POST", path: "/v1/completions", status: 200 });
});

test("a server that stops lets answers end to their last byte, and takes no more", async () => {
  const own = new ApiServer(engine, { model: "tiny", port: 0 });
  const body = { ...greedy, messages, max_tokens: 300, ignore_eos: true, stream: true };
  const ask = () =>
    fetch(`${own.url}/v1/chat/completions`, { method: "POST", body: JSON.stringify(body) });
  const response = await ask();
  const stopped = own.stop();
  expect((await ask()).status).toBe(503);
  expect((await fetch(`${own.url}/health`)).status).toBe(503);
  const text = await response.text();
  expect(text.trimEnd().endsWith("data: [DONE]")).toBe(true);
  await stopped;
  expect(await ask().catch(() => "closed")).toBe("closed");
});

test("a lost device fails what runs, the health check and the engine", async () => {
  await using broken = await Engine.load(path);
  const own = new ApiServer(broken, { model: "tiny", port: 0 });
  const health = () => fetch(`${own.url}/health`);
  expect((await health()).status).toBe(200);
  await breakDevice(broken.device);
  expect(Bun.peek.status(broken.lost)).toBe("pending");
  const answer = await health();
  expect([answer.status, await answer.json()]).toEqual([503, { status: "lost" }]);
  // Without a request too, so that a server that nobody asks ends.
  expect(Bun.peek.status(broken.lost)).toBe("fulfilled");
  const body = JSON.stringify({ ...greedy, messages });
  const asked = await fetch(`${own.url}/v1/chat/completions`, { method: "POST", body });
  expect(asked.status).toBe(500);
  expect(String(await broken.lost)).toContain("probe_spin failed with status 7");
  await broken[Symbol.asyncDispose]();
  const closed = await health();
  expect([closed.status, await closed.json()]).toEqual([503, { status: "closed" }]);
  await own.stop(0);
});

test.each(["a probe", "a request"])("%s finds the device of embeddings lost", async (by) => {
  await using encoder = await Encoder.load(writeTinyBert(join(folder, "broken")));
  const own = new ApiServer(engine, {
    model: "tiny",
    port: 0,
    embeddings: { model: "bert", encoder },
  });
  expect((await fetch(`${own.url}/health`)).status).toBe(200);
  await breakDevice(encoder.device);
  if (by === "a request") expect(await encoder.embed(["a"]).catch(String)).toContain("status 7");
  else expect(await (await fetch(`${own.url}/health`)).json()).toEqual({ status: "lost" });
  expect(Bun.peek.status(encoder.health.lost)).toBe("fulfilled");
  expect((await fetch(`${own.url}/health`)).status).toBe(503);
  expect(Bun.peek.status(engine.lost)).toBe("pending");
  await own.stop(0);
});

test("what one request does to its token ends no other", async () => {
  // A vocabulary that is padded past the tokenizer's.
  const model = tinyModel(1, { ...shape, context: 64, tied: true });
  const embedding = model.tensors.get("model.embed_tokens.weight")!;
  const rows = embedding.shape[0] + 8;
  const values = new Float32Array(rows * shape.hidden);
  values.set(embedding.values);
  const padded = new Map(model.tensors);
  padded.set("model.embed_tokens.weight", { shape: [rows, shape.hidden], values });
  const wider = { shape: model.shape, tensors: padded };
  const at = writeFolder(join(folder, "padded"), wider, { vocab_size: rows });
  await using other = await Engine.load(at);
  const odd = { temperature: 0, logitBias: { [rows - 1]: 100 }, logprobs: 1 };
  const [text, plain] = await Promise.all([
    other.generate({ messages, maxTokens: 4, sampling: odd }).text(),
    other.generate({ messages, maxTokens: 8, sampling: { temperature: 0 } }).text(),
  ]);
  expect(text).toBe("");
  expect(plain.length).toBeGreaterThan(0);
});
