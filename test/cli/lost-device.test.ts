import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../support/sources.ts";
import { deviceTargets } from "../support/targets.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";
import { entry } from "./run.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-lost-"));
afterAll(() => rmSync(folder, { recursive: true }));
// As in test/engine/gpu.test.ts, whose kernels are compiled.
const shape = { layers: 2, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 16 };
const model = writeFolder(folder, tinyModel(1, { ...shape, context: 8192, tied: false }));
const { kind } = (await deviceTargets()).at(-1)!;
const on = kind === "cpu" ? ["--device", "cpu"] : ["--device", "cuda:0", "--dtype", "f16"];

test("a server whose device is lost ends its streams and itself, with the reason", async () => {
  const preload = join(root, "test/support/break-on-signal.ts");
  const sizes = ["--pages", "600", "--token-budget", "6", "--max-batch", "3"];
  const command = ["--preload", preload, entry, "serve", model, "--port", "0", ...on, ...sizes];
  await using child = Bun.spawn([process.execPath, ...command], {
    stdout: "pipe",
    stderr: "pipe",
    env: process.env,
  });
  let said = "";
  const heard = Promise.withResolvers<string>();
  const reading = (async () => {
    for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
      said += text;
      const url = /at (http\S+)\/v1\n/.exec(said)?.[1];
      if (url !== undefined) heard.resolve(url);
    }
    heard.reject(new Error(said));
  })();
  const url = await heard.promise;
  const body = { prompt: [3, 4, 5], max_tokens: 8000, ignore_eos: true, stream: true };
  const asked = { method: "POST", body: JSON.stringify(body) };
  const streams = await Promise.all([1, 2].map(() => fetch(`${url}/v1/completions`, asked)));
  expect(streams.map(({ status }) => status)).toEqual([200, 200]);
  const texts = streams.map((stream) => stream.text().catch(String));
  child.kill("SIGUSR2");
  expect(await child.exited).toBe(1);
  await reading;
  expect(said).toMatch(/^flashbun: .*probe_spin/m);
  for (const text of await Promise.all(texts)) expect(text).not.toContain("[DONE]");
  expect(await fetch(`${url}/health`).catch(() => "gone")).toBe("gone");
}, 60_000);
