import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine } from "../../src/engine/index.ts";
import { ApiServer } from "../../src/server/index.ts";
import { root } from "../support/sources.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-curl-"));
const shape = { layers: 1, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const path = writeFolder(folder, tinyModel(1, { ...shape, context: 512, tied: true }));
const address = "http://127.0.0.1:8000";
let engine: Engine;
let open: ApiServer;
let guarded: ApiServer;

beforeAll(async () => {
  engine = await Engine.load(path);
  open = new ApiServer(engine, { model: "tiny", port: 0 });
  guarded = new ApiServer(engine, { model: "tiny", port: 0, apiKey: "secret" });
});

afterAll(async () => {
  await Promise.all([open.stop(0), guarded.stop(0)]);
  await engine[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

/** Runs a shell's line that asks the pages' address, with a server in its place. */
async function shell(line: string, server = open): Promise<string> {
  const child = Bun.spawn(["sh", "-c", line.replaceAll(/(http:\/\/)?127.0.0.1:8000/g, server.url)]);
  const text = await new Response(child.stdout).text();
  expect(await child.exited).toBe(0);
  return text;
}

/** Commands of a page that run curl. */
function curls(page: string): string[] {
  const text = readFileSync(join(root, page), "utf8");
  const blocks = [...text.matchAll(/^```sh\n(.*?)^```/gms)].map(([, block]) => block);
  return blocks.flatMap((block) => block.replaceAll("\\\n", " ").match(/^curl .*$/gm) ?? []);
}

const isHere = Bun.which("curl") !== null;

test.skipIf(!isHere).each(["README.md", "docs/server.md"])("%s's commands", async (page) => {
  const lines = curls(page);
  expect(lines.length).toBeGreaterThan(0);
  for (const line of lines) {
    const { choices, usage } = JSON.parse(await shell(`${line} -s`)) as {
      choices: { message: { role: string } }[];
      usage: { completion_tokens: number };
    };
    expect(choices[0].message.role).toBe("assistant");
    // Chance may end it with the first.
    expect(usage.completion_tokens).toBeGreaterThan(0);
  }
});

test.skipIf(!isHere)("a stream, whose lines are events", async () => {
  const body = JSON.stringify({ prompt: "a", max_tokens: 4, ignore_eos: true, stream: true });
  const text = await shell(`curl -sN ${address}/v1/completions -d '${body}'`);
  const events = text.trimEnd().split("\n\n");
  expect(events.at(-1)).toBe("data: [DONE]");
  const pieces = events.slice(0, -1).map((event) => JSON.parse(event.slice("data: ".length)));
  expect(pieces.at(-1).choices[0].finish_reason).toBe("length");
});

test.skipIf(!isHere)("keys, headers and statuses", async () => {
  const ask = (more: string) =>
    shell(`curl -s -o /dev/null -w '%{http_code} %header{x-request-id}' ${more}`, guarded);
  const at = `${address}/v1/models`;
  expect(await ask(`-H 'x-request-id: mine' ${at}`)).toBe("401 mine");
  for (const key of ["secre", "secret2", "Secret", "''"])
    expect(await ask(`-H 'Authorization: Bearer ${key}' ${at}`)).toMatch(/^401 /);
  expect(await ask(`-H 'Authorization: Bearer secret' ${at}`)).toMatch(/^200 [\w-]{36}$/);
  expect(await ask(`${address}/health`)).toMatch(/^200 /);
  expect(await ask(`-X POST ${address}/health`)).toMatch(/^405 /);
});
