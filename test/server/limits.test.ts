import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine, type Generation } from "../../src/engine/index.ts";
import { OptionError } from "../../src/errors.ts";
import { ApiServer, type ServerOptions } from "../../src/server/index.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";

/** A context that no answer of these tests fills. */
const context = 1 << 17;
const folder = mkdtempSync(join(tmpdir(), "flashbun-limits-"));
const shape = { layers: 1, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const path = writeFolder(folder, tinyModel(1, { ...shape, context, tied: true }));
const endless = { prompt: "hello", ignore_eos: true, temperature: 0 };
let engine: Engine;
let lines: { status: number; path: string }[];

beforeAll(async () => {
  engine = await Engine.load(path);
});
beforeEach(() => void (lines = []));
afterAll(async () => {
  await engine[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

/** A server of its own limits, which goes with the test. */
function serve(limits: Partial<ServerOptions>) {
  const log = (line: string) => void lines.push(JSON.parse(line) as (typeof lines)[0]);
  const server = new ApiServer(engine, { model: "tiny", port: 0, log, ...limits });
  const complete = (body: object, signal?: AbortSignal) =>
    fetch(`${server.url}/v1/completions`, {
      method: "POST",
      body: JSON.stringify(body),
      ...(signal && { signal }),
    });
  return {
    complete,
    stop: (graceMs?: number) => server.stop(graceMs),
    [Symbol.asyncDispose]: () => server.stop(0),
  };
}

/** What an error of the API says. */
async function errorOf(response: Response) {
  const { error } = (await response.json()) as { error: { message: string; param: string } };
  return { status: response.status, ...error };
}

test("an answer has no more tokens than are allowed, nor fewer by default", async () => {
  await using server = serve({ maxTokens: 12 });
  const more = await errorOf(await server.complete({ ...endless, max_tokens: 13 }));
  expect(more).toMatchObject({ status: 400, param: "max_tokens" });
  expect(more.message).toMatch(/max_tokens must be an integer from 1 to 12 \(got 13\)/);
  for (const stated of [{ max_tokens: 12 }, {}]) {
    const response = await server.complete({ ...endless, ...stated });
    const { usage } = (await response.json()) as { usage: { completion_tokens: number } };
    expect(usage.completion_tokens).toBe(12);
  }
});

test("a second stop does not wait for what the first one does", async () => {
  await using server = serve({});
  const stream = await server.complete({ ...endless, stream: true, max_tokens: 100_000 });
  const began = performance.now();
  const first = server.stop();
  await server.stop(0);
  await first;
  expect(performance.now() - began).toBeLessThan(5000);
  await stream.text().catch(() => {});
});

test("a server says which port or address it cannot have", () => {
  const taken = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = taken;
  expect(() => serve({ port })).toThrow(`port must be one at which nobody listens on 127.0.0.1`);
  expect(() => serve({ host: "192.0.2.1" })).toThrow("host must be an address of this machine");
  taken.stop();
});

test("an answer that takes too long ends with 504, a stream with its error", async () => {
  await using soon = serve({ maxSeconds: 0.001 });
  const late = await errorOf(await soon.complete({ ...endless, max_tokens: 100_000 }));
  expect(late).toMatchObject({ status: 504, message: expect.stringMatching(/more than 0.001 s/) });
  expect(engine.stats().requests).toBe(0);
  // On a busy machine a stream may not begin in its time.
  for (const maxSeconds of [0.5, 2, 8]) {
    await using server = serve({ maxSeconds });
    const response = await server.complete({ ...endless, max_tokens: 100_000, stream: true });
    if (response.status === 504) continue;
    expect(response.status).toBe(200);
    const last = (await response.text()).trimEnd().split("\n\n").at(-1)!;
    expect(JSON.parse(last.replace("data: ", ""))).toMatchObject({
      error: { type: "timeout_error", message: expect.stringMatching(/it took more than/) },
    });
    expect(engine.stats().requests).toBe(0);
    break;
  }
  expect(new Set(lines.map(({ status }) => status))).toEqual(new Set([504]));
});

test("what fails before a stream's first token has a status of its own", async () => {
  await using server = serve({});
  const { forward } = engine.model;
  engine.model.forward = () => {
    throw new Error("injected");
  };
  const response = await server.complete({ ...endless, max_tokens: 4, stream: true });
  engine.model.forward = forward;
  expect(await errorOf(response)).toMatchObject({ status: 500, message: "injected" });
  const after = await server.complete({ ...endless, max_tokens: 4, stream: true });
  expect((await after.text()).trimEnd().endsWith("data: [DONE]")).toBe(true);
  expect(lines.map(({ status }) => status)).toEqual([500, 200]);
});

test("bodies above the limit are refused, at once and as they come", async () => {
  await using server = serve({ maxBodyBytes: 100 });
  expect((await server.complete({ prompt: "a".repeat(100) })).status).toBe(413);
});

test("the pages of a client that left are back with the step under way", async () => {
  await using server = serve({});
  const generations: Generation[] = [];
  const generate = engine.generate.bind(engine);
  engine.generate = (options) => {
    const generation = generate(options);
    generations.push(generation);
    return generation;
  };
  const leave = [new AbortController(), new AbortController()];
  try {
    const asked = { ...endless, max_tokens: 100_000, stream: true };
    const [gone, staying] = await Promise.all(
      leave.map(async ({ signal }) => (await server.complete(asked, signal)).body!.getReader()),
    );
    await Promise.all([gone.read(), staying.read()]);
    const left = generations[0];
    const ended = Promise.withResolvers<number>();
    const { onEnd } = left;
    left.onEnd = () => {
      onEnd?.();
      ended.resolve(engine.stats().steps);
    };
    leave[0].abort();
    const steps = await ended.promise;
    const holds = () => engine.live().owners.some((group) => group.includes(left.id));
    while (holds()) await Bun.sleep(0);
    // One step ran, and one may have been queued behind it.
    expect(engine.stats().steps - steps).toBeLessThanOrEqual(1);
    expect(engine.stats().requests).toBe(1);
    leave[1].abort();
    while (engine.stats().requests > 0) await Bun.sleep(0);
  } finally {
    engine.generate = generate;
  }
  expect(lines.map(({ status }) => status)).toEqual([499, 499]);
});

test.each([
  ["maxTokens", 0],
  ["maxSeconds", 0],
  ["maxSeconds", NaN],
  ["maxBodyBytes", 1.5],
  ["maxRequests", -1],
  ["port", 65536],
  ["host", 5],
  ["model", undefined],
  ["log", "stdout"],
  ["apiKey", 5],
  // A server whose key is misspelt would be open to all.
  ["apikey", "secret"],
  ["embeddings", { model: "bert" }],
  ["embeddings", { model: "bert", encoder: {} }],
])("%s of %p is refused by name", (name, value) => {
  const options = { model: "tiny", port: 0, [name]: value } as ServerOptions;
  expect(() => new ApiServer(engine, options)).toThrow(OptionError);
  expect(() => new ApiServer(engine, options)).toThrow(name);
});

test("what is no engine is refused, and what is undefined is left out", async () => {
  const options = { model: "tiny", port: 0 };
  const none = undefined as unknown as Engine;
  expect(() => new ApiServer(none, options)).toThrow("engine must be an engine (got undefined)");
  const server = new ApiServer(engine, {
    ...options,
    apiKey: undefined,
    log: undefined,
    embeddings: undefined,
  });
  await server.stop();
});

test("what outlives a stopping server ends with an error, a stream by its last event", async () => {
  await using server = serve({});
  const long = { ...endless, max_tokens: 100_000 };
  const stream = await server.complete({ ...long, stream: true });
  const stalled = await server.complete({ ...long, stream: true });
  const whole = server.complete(long);
  const reader = stream.body!.pipeThrough(new TextDecoderStream()).getReader();
  let text = (await reader.read()).value!;
  expect(text).toStartWith("data: {");
  const began = performance.now();
  const stopped = server.stop(30);
  for (let piece = await reader.read(); !piece.done; piece = await reader.read())
    text += piece.value;
  const last = JSON.parse(text.trimEnd().split("data: ").at(-1)!) as { error: object };
  expect(last.error).toMatchObject({ type: "server_error", param: null });
  expect(last.error).toHaveProperty("message", expect.stringContaining("shutting down"));
  expect(text).not.toContain("[DONE]");
  const failed = await whole;
  expect(failed.headers.get("retry-after")).toBe("1");
  expect((await errorOf(failed)).status).toBe(503);
  await stopped;
  expect(performance.now() - began).toBeLessThan(5000);
  await stalled.body!.cancel().catch(() => {});
  expect(lines.map(({ status }) => status)).toEqual([503, 503, 503]);
  while (engine.stats().requests > 0) await Bun.sleep(1);
});
