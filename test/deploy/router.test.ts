import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine } from "../../src/engine/index.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";
import { type Answering, startReplica, startRouter } from "./replicas.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-router-"));
chmodSync(folder, 0o755);
const shape = { layers: 2, hidden: 64, intermediate: 96, queryHeads: 4, kvHeads: 2, headDim: 16 };
const model = writeFolder(
  join(folder, "tiny"),
  tinyModel(4, { ...shape, context: 4096, tied: true }),
);
/** Few run at once, so that most requests wait when a replica goes. */
const limits = ["--name", "tiny", "--max-batch", "4", "--max-requests", "64"];
let replicas: Answering[];
let router: Answering | undefined;
let runs = 0;

beforeAll(async () => {
  replicas = await Promise.all([
    startReplica([model, ...limits]),
    startReplica([model, ...limits]),
  ]);
});

/** Puts a router in front of the two of the moment. */
async function route(): Promise<void> {
  await router?.[Symbol.asyncDispose]();
  const ports = replicas.map(({ port }) => port);
  router = await startRouter(join(folder, `nginx-${++runs}`), ports);
}

afterAll(async () => {
  await router?.[Symbol.asyncDispose]();
  for (const replica of replicas) await replica[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

type Body = Record<string, unknown>;

function post(body: Body, headers: Record<string, string> = {}): Promise<Response> {
  const url = `${router!.url}/v1/chat/completions`;
  return fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
}

/** Replicas that nginx asked for the requests with these ids, in their order, once it has ended. */
async function routed(ids: readonly string[]): Promise<string[][]> {
  router!.child.kill("SIGQUIT");
  await router!.child.exited;
  const log = readFileSync(join(folder, `nginx-${runs}`, "log"), "utf8");
  const lines = log.trim().split("\n");
  const all = lines.map((line) => JSON.parse(line) as { id: string; replicas: string });
  return ids.map((id) => all.find((line) => line.id === id)!.replicas.split(", "));
}

describe("where conversations go", () => {
  /** Ways in which clients write a user's message. */
  const users: ((content: string) => object)[] = [
    (content) => ({ role: "user", content }),
    (content) => ({ content, role: "user" }),
    (text) => ({ role: "user", content: [{ type: "text", text }] }),
  ];
  const system = { role: "system", content: 'Say "role": "user" {briefly}. '.repeat(40) };

  test("each turn to where its conversation began, another conversation anywhere", async () => {
    await route();
    const ids: string[] = [];
    const ask = async (body: Body, headers: Record<string, string> = {}) => {
      const id = `turn-${ids.length}`;
      ids.push(id);
      const response = await post(body, { ...headers, "x-request-id": id });
      expect([response.status, response.headers.get("x-request-id")]).toEqual([200, id]);
      const { choices, usage } = (await response.json()) as {
        choices: { message: object }[];
        usage: { prompt_tokens: number; prompt_tokens_details: { cached_tokens: number } };
      };
      return { answer: choices[0].message, cached: usage.prompt_tokens_details.cached_tokens };
    };
    for (let i = 0; i < 12; i++) {
      const first = [system, users[i % 3](`Question ${i}: what is a page table?`)];
      const body = { model: "tiny", temperature: 0, max_tokens: 8, ignore_eos: true };
      const { answer } = await ask({ ...body, messages: first });
      const second = [...first, answer, { role: "user", content: "And why?" }];
      // What comes after the messages differs.
      const { cached } = await ask({ ...body, seed: i, messages: second, top_p: 0.9 });
      expect(cached).toBeGreaterThan(JSON.stringify(first).length / 2);
    }
    // A session's name is worth more than its messages.
    for (let i = 0; i < 6; i++) {
      const body = { max_tokens: 1, messages: [users[0](`Apart ${i}`)] };
      await ask(body, { "x-session-id": "one" });
    }
    const went = (await routed(ids)).map(([replica]) => replica);
    const turns = went.slice(0, 24);
    expect(turns.filter((_, i) => i % 2 === 1)).toEqual(turns.filter((_, i) => i % 2 === 0));
    expect(new Set(turns).size).toBe(2);
    expect(new Set(went.slice(24)).size).toBe(1);
  }, 60_000);

  test("a replica that is full passes requests on, and only when both are is one refused", async () => {
    await route();
    const body = { max_tokens: 400, ignore_eos: true, messages: [users[0]("Much")] };
    const ids = Array.from({ length: 140 }, (_, i) => `full-${i}`);
    const statuses = await Promise.all(
      ids.map(async (id) => {
        const response = await post(body, { "x-session-id": "two", "x-request-id": id });
        await response.text();
        return response.status;
      }),
    );
    const answered = ids.filter((_, i) => statuses[i] === 200);
    expect(new Set(statuses)).toEqual(new Set([200, 429]));
    expect(answered.length).toBeGreaterThanOrEqual(128);
    const tried = await routed(answered);
    expect(new Set(tried.map((replicas) => replicas.at(-1))).size).toBe(2);
    expect(tried.filter(({ length }) => length === 2).length).toBeGreaterThanOrEqual(64);
  }, 120_000);
});

describe("a replica that goes under load", () => {
  const questions = Array.from({ length: 80 }, (_, i) => `Question ${i} of many`);
  const bodyOf = (content: string) => ({
    messages: [{ role: "user", content }],
    temperature: 0,
    max_tokens: 300,
    ignore_eos: true,
    stream: true,
  });
  /** Those that ask before a replica goes. */
  const early = 60;
  let expected: string[];

  beforeAll(async () => {
    await using engine = await Engine.load(model);
    expected = await Promise.all(
      questions.map((content) => {
        const { messages, max_tokens: maxTokens } = bodyOf(content);
        const sampling = { temperature: 0 };
        return engine.generate({ messages, maxTokens, ignoreEnd: true, sampling }).text();
      }),
    );
  }, 60_000);

  /** What a client saw: its text, whether anything came, and its end. */
  interface Seen {
    text: string;
    begun: boolean;
    end: "whole" | "cut" | "refused";
  }

  /** Lets a replica go when `after` clients have a first token; the last ones ask just then. */
  async function under(after: number, go: () => void): Promise<{ seen: Seen[]; ids: string[] }> {
    await route();
    const ids = questions.map((_, i) => `load-${runs}-${i}`);
    const seen = questions.map<Seen>(() => {
      return { text: "", begun: false, end: "cut" };
    });
    let begun = 0;
    const gone = Promise.withResolvers<void>();
    const follow = async (own: Seen, i: number) => {
      if (i >= early) await gone.promise;
      const response = await post(bodyOf(questions[i]), { "x-request-id": ids[i] });
      if (response.status !== 200) return void (own.end = "refused");
      const decoder = new TextDecoder();
      let read = "";
      try {
        for await (const chunk of response.body!) {
          if (!own.begun && ++begun === after) {
            go();
            gone.resolve();
          }
          own.begun = true;
          read += decoder.decode(chunk, { stream: true });
        }
      } catch {
        // Cut within a chunk.
      }
      const events = read.split("\n\n").slice(0, -1);
      if (events.at(-1) === "data: [DONE]") own.end = "whole";
      for (const event of events.filter((line) => line !== "data: [DONE]")) {
        const piece = JSON.parse(event.slice("data: ".length)) as {
          choices: { delta: { content?: string } }[];
        };
        own.text += piece.choices[0].delta.content ?? "";
      }
    };
    await Promise.all(seen.map(follow));
    return { seen, ids };
  }

  test("killed: no request is lost that had not begun to stream", async () => {
    const [victim] = replicas;
    const { seen, ids } = await under(20, () => victim.child.kill("SIGKILL"));
    await victim.child.exited;
    const lost = seen.filter(({ end }) => end !== "whole");
    expect(lost.filter(({ begun }) => !begun)).toEqual([]);
    seen.forEach(({ end, text }, i) => {
      if (end === "whole") expect(text).toBe(expected[i]);
      // What was cut is right as far as it came.
      else expect(expected[i]).toStartWith(text);
    });
    // The kill met requests in both states, and those that waited were asked of the other.
    const tried = await routed(ids);
    const at = `127.0.0.1:${victim.port}`;
    const moved = tried.filter((places, i) => places[0] === at && seen[i].end === "whole");
    expect(moved.filter(({ length }) => length === 2).length).toBeGreaterThan(4);
    expect(lost.length).toBeGreaterThan(0);
    replicas[0] = await startReplica([model, ...limits], victim.port);
  }, 120_000);

  test("told to stop: no request is lost at all, and it ends by itself", async () => {
    const [, victim] = replicas;
    const { seen } = await under(20, () => victim.child.kill("SIGTERM"));
    expect(seen.map(({ text }) => text)).toEqual(expected);
    expect(seen.filter(({ end }) => end !== "whole")).toEqual([]);
    expect(await victim.child.exited).toBe(0);
  }, 120_000);
});
