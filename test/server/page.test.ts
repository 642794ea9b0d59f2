import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine, type EngineLive } from "../../src/engine/index.ts";
import { ApiServer } from "../../src/server/index.ts";
import { Browser, chromium } from "../support/browser.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-page-"));
const shape = { layers: 1, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const path = writeFolder(folder, tinyModel(1, { ...shape, context: 4096, tied: true }), {
  // Its answers end by their length alone.
  eos_token_id: null,
});
let engine: Engine;
let server: ApiServer;

beforeAll(async () => {
  engine = await Engine.load(path);
  server = new ApiServer(engine, { model: "tiny", port: 0 });
});

afterAll(async () => {
  await server.stop(0);
  await engine[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

test("a snapshot says who runs and who holds which page", async () => {
  const prompt = Array.from({ length: 40 }, (_, i) => i);
  const options = { maxTokens: 8, ignoreEnd: true, sampling: { temperature: 0 } };
  await engine.generate({ ...options, tokens: prompt }).text();
  await engine.generate({ ...options, tokens: prompt.map((token) => token + 100) }).text();
  const both = [200, 201].map((last) =>
    engine.generate({ ...options, maxTokens: 2000, tokens: [...prompt, last] }),
  );
  for (const generation of both) await generation[Symbol.asyncIterator]().next();
  const response = await fetch(`${server.url}/live`);
  const { batch, owners } = (await response.json()) as EngineLive;
  expect(batch.map(({ promptTokens, cachedTokens }) => [promptTokens, cachedTokens])).toEqual([
    [41, 32],
    [41, 32],
  ]);
  const ids = both.map(({ id }) => id);
  expect(batch.map(({ id }) => id).sort()).toEqual(ids);
  // Two pages of 16 tokens are both's, some are each one's, two are kept.
  const count = (owner: number) => owners[0].filter((each) => each === owner).length;
  expect(count(-2)).toBe(2);
  expect(ids.every((id) => count(id) >= 1)).toBe(true);
  expect(count(-1)).toBe(2);
  const drawing = await (await fetch(`${server.url}/live/plan.svg`)).text();
  expect(drawing).toStartWith("<svg ");
  for (const generation of both) generation.abort();
});

test("its files say that nothing comes from elsewhere; with a key figures want it", async () => {
  const response = await fetch(`${server.url}/`);
  expect(response.headers.get("content-security-policy")).toMatch(/^default-src 'none'/);
  expect(await response.text()).not.toMatch(/(src|href)="https?:/);
  const guarded = new ApiServer(engine, { model: "tiny", port: 0, apiKey: "secret" });
  const statuses = ["/", "/page/live.js", "/live", "/live/plan.svg"].map(
    async (at) => (await fetch(`${guarded.url}${at}`)).status,
  );
  expect(await Promise.all(statuses)).toEqual([200, 200, 401, 401]);
  await guarded.stop(0);
});

test("times to the first token and between tokens are histograms", async () => {
  const body = JSON.stringify({ prompt: "a", max_tokens: 5, ignore_eos: true });
  await (await fetch(`${server.url}/v1/completions`, { method: "POST", body })).text();
  const text = await (await fetch(`${server.url}/metrics`)).text();
  const first = /^flashbun_time_to_first_token_seconds_count (\d+)$/m.exec(text)![1];
  const between = /^flashbun_inter_token_seconds_count (\d+)$/m.exec(text)![1];
  expect(Number(between)).toBe(4 * Number(first));
});

test.skipIf(chromium === undefined)(
  "the page talks, stops and shows what runs, in a browser",
  async () => {
    await using browser = await Browser.open(1280, 800);
    await browser.send("Page.navigate", { url: `${server.url}/` });
    await browser.until("document.querySelectorAll('#tiles div').length === 9");
    await browser.send("Input.insertText", { text: "hello w" });
    await browser.press("Enter", 13, "\r");
    await browser.until("document.querySelectorAll('#batch li').length === 1");
    expect(await browser.value<string>("send.textContent")).toBe("Stop");
    await browser.value("document.getElementById('plan-box').open = true");
    await browser.until("document.getElementById('plan').naturalWidth > 0");
    await browser.press("Escape", 27);
    await browser.until("send.textContent === 'Send'");
    await browser.until("document.querySelectorAll('#batch li').length === 0");
    const turns = await browser.value<string[]>("[...talk.children].map((line) => line.className)");
    expect(turns).toEqual(["user", "assistant"]);
    expect(await browser.value<number>("talk.lastChild.textContent.length")).toBeGreaterThan(0);
    expect(browser.complaints).toEqual([]);
    const elsewhere = browser.asked.filter(
      (url) => !url.startsWith(server.url) && !/^(blob|data|chrome):/.test(url),
    );
    expect(elsewhere).toEqual([]);
  },
  60_000,
);
