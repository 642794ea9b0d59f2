import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Encoder, Engine } from "../../src/engine/index.ts";
import { ApiServer } from "../../src/server/index.ts";
import { writeTinyBert } from "../support/tiny-bert.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";
import { llamaTargets, tinyAdapter, writeAdapter } from "../support/tiny-lora.ts";

const context = 1 << 14;
const folder = mkdtempSync(join(tmpdir(), "flashbun-long-texts-"));
const shape = { layers: 1, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const model = tinyModel(1, { ...shape, context, tied: true });
const path = writeFolder(folder, model);
const greedy = { maxTokens: 4, ignoreEnd: true, sampling: { temperature: 0 } };
const long = "hello w½s 12 ".repeat(800);
let engine: Engine;

beforeAll(async () => void (engine = await Engine.load(path)));
afterAll(async () => {
  await engine[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

test("a long text is answered as its tokens are, by messages too", async () => {
  const tokens = engine.tokenizer.encode(long);
  const generation = engine.generate({ ...greedy, prompt: long });
  expect(generation.usage.promptTokens).toBe(0);
  const expected = await engine.generate({ ...greedy, tokens }).text();
  expect(await generation.text()).toBe(expected);
  expect(generation.usage.promptTokens).toBe(tokens.length);
  const messages = [{ role: "user", content: long }];
  const rendered = engine.chatTemplate!.render({ messages });
  const whole = await engine
    .generate({ ...greedy, tokens: engine.tokenizer.encode(rendered) })
    .text();
  expect(await engine.generate({ ...greedy, messages }).text()).toBe(whole);
});

test("whoever leaves while it is cut is never run", async () => {
  const { promptTokens } = engine.stats();
  const aborted = engine.generate({ ...greedy, prompt: long });
  aborted.abort();
  expect([aborted.finishReason, await aborted.text()]).toEqual(["abort", ""]);
  const leave = new AbortController();
  const signalled = engine.generate({ ...greedy, prompt: long, signal: leave.signal });
  leave.abort(new Error("enough"));
  expect(await signalled.text().catch((error: Error) => error.message)).toBe("enough");
  const unread = engine.generate({ ...greedy, prompt: long });
  await unread[Symbol.asyncIterator]().return!();
  expect(unread.finishReason).toBe("abort");
  // One that comes later is run when all that was asked for before is cut.
  await engine.generate({ ...greedy, prompt: `${long}!` }).text();
  const now = engine.stats();
  expect(now.requests).toBe(0);
  expect(now.promptTokens - promptTokens).toBe(engine.tokenizer.encode(`${long}!`).length);
});

test("what is wrong with its length the reader gets", async () => {
  const tooLong = engine.generate({ prompt: "ab".repeat(context) });
  expect(await tooLong.text().catch((error: Error) => error.message)).toMatch(
    /prompt tokens must be an integer from 1 to 16383/,
  );
  const noRoom = engine.generate({ prompt: long, maxTokens: context });
  expect(await noRoom.text().catch((error: Error) => error.message)).toMatch(/maxTokens must be/);
  // What can be said at once is.
  expect(() => engine.generate({ prompt: long, sampling: { temperature: -1 } })).toThrow();
});

test("an adapter that was unloaded while it is cut is no other of that name", async () => {
  const folders = [2, 3].map((seed) => {
    const adapter = tinyAdapter(seed, model, llamaTargets, { rank: 2 });
    return writeAdapter(join(folder, `adapter ${seed}`), adapter);
  });
  for (const follows of [false, true]) {
    await engine.loadAdapter("it", folders[0]);
    const generation = engine.generate({ ...greedy, prompt: long, adapter: "it" });
    await engine.unloadAdapter("it");
    if (follows) await engine.loadAdapter("it", folders[1]);
    const said = await generation.text().catch(String);
    expect(said).toMatch(/OptionError: adapter must be .* it was unloaded while/);
    if (follows) await engine.unloadAdapter("it");
  }
});

const threads = () => readdirSync("/proc/self/task").length;

test("an engine that closes tells who waits, and its thread goes", async () => {
  const before = threads();
  const other = await Engine.load(path);
  // One to start the thread.
  await other.generate({ ...greedy, prompt: long }).text();
  const waiting = [other.generate({ prompt: long }), other.generate({ prompt: long })];
  await other[Symbol.asyncDispose]();
  for (const generation of waiting)
    expect(await generation.text().catch((error: Error) => error.message)).toMatch(
      /the engine was closed/,
    );
  while (threads() > before) await Bun.sleep(10);
}, 30_000);

test("by the server: long prompts, clients that leave, and many texts for vectors", async () => {
  await using encoder = await Encoder.load(writeTinyBert(join(folder, "bert")));
  const lines: { status: number }[] = [];
  const log = (line: string) => void lines.push(JSON.parse(line) as { status: number });
  const embeddings = { model: "bert", encoder };
  const server = new ApiServer(engine, { model: "tiny", port: 0, embeddings, log });
  const post = (at: string, body: object, signal?: AbortSignal) =>
    fetch(`${server.url}/v1/${at}`, {
      method: "POST",
      body: JSON.stringify(body),
      ...(signal && { signal }),
    });
  const asked = { prompt: long, max_tokens: 2, ignore_eos: true, temperature: 0 };
  const { usage } = (await (await post("completions", asked)).json()) as {
    usage: { prompt_tokens: number };
  };
  expect(usage.prompt_tokens).toBe(engine.tokenizer.encode(long).length);
  const leave = new AbortController();
  const came = Promise.withResolvers<void>();
  const encode = engine.encode.bind(engine);
  engine.encode = (...args) => {
    came.resolve();
    return encode(...args);
  };
  const gone = post("completions", { ...asked, max_tokens: 4000 }, leave.signal).catch(() => {});
  await came.promise;
  leave.abort();
  await gone;
  engine.encode = encode;
  while (lines.length < 2) await Bun.sleep(1);
  expect(lines.map(({ status }) => status)).toEqual([200, 499]);
  while (engine.stats().requests > 0) await Bun.sleep(1);
  const refused = await post("completions", { ...asked, prompt: "ab".repeat(context) });
  expect([refused.status, await refused.text()]).toEqual([400, expect.stringMatching(/prompt/)]);
  // More characters than are cut at once.
  const input = Array.from({ length: 400 }, (_, i) => `text ${i} of a few`);
  const { data } = (await (await post("embeddings", { input })).json()) as {
    data: { embedding: number[] }[];
  };
  const [one] = await encoder.embed([input[123]]);
  data[123].embedding.forEach((value, i) => expect(value).toBeCloseTo(one[i], 5));
  await server.stop(0);
}, 60_000);
