import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findMpi } from "../../scripts/mpi.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";
import { entry } from "./run.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-serve-ranks-"));
afterAll(() => rmSync(folder, { recursive: true }));
const sizes = { layers: 2, hidden: 64, intermediate: 96, queryHeads: 8, kvHeads: 2, headDim: 8 };
const path = writeFolder(join(folder, "tiny"), tinyModel(1, { ...sizes, context: 64, tied: true }));

/** Processes that serve this model, by their rank. */
function ranksHere(): Map<number, number> {
  const found = new Map<number, number>();
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const rank = /OMPI_COMM_WORLD_RANK=(\d+)/.exec(readFileSync(`/proc/${pid}/environ`, "utf8"));
      const isOurs = readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(path);
      if (rank !== null && isOurs) found.set(Number(rank[1]), Number(pid));
    } catch {
      // It ended while it was looked at.
    }
  }
  return found;
}

async function serve() {
  const { command, environment } = await findMpi("Open MPI");
  const [mpirun] = command(1);
  const started = [process.execPath, entry, "serve", path, "--tp", "2", "--port", "0"];
  const child = Bun.spawn(started, {
    stdout: "pipe",
    stderr: "pipe",
    env: {
      ...process.env,
      ...environment,
      FLASHBUN_THREADS: "1",
      PATH: `${join(mpirun, "..")}:${process.env["PATH"]}`,
    },
  });
  let text = "";
  const ends = (async () => {
    for await (const piece of child.stderr) text += new TextDecoder().decode(piece);
  })();
  let url: string | undefined;
  for (let i = 0; i < 600 && url === undefined && child.exitCode === null; i++) {
    url = / at (http\S+)\/v1/.exec(text)?.[1];
    await Bun.sleep(50);
  }
  return { child, url: url!, said: async () => (await ends, text) };
}

async function complete(url: string): Promise<string> {
  const body = JSON.stringify({ prompt: "ab", max_tokens: 4, temperature: 0 });
  const headers = { "content-type": "application/json" };
  const response = await fetch(`${url}/v1/completions`, { method: "POST", headers, body });
  expect(response.status).toBe(200);
  const { choices } = (await response.json()) as { choices: { text: string }[] };
  return choices[0].text;
}

test("serve starts its ranks; one that is killed ends all", async () => {
  const { child, url, said } = await serve();
  expect(await complete(url)).toBe(await complete(url));
  const ranks = ranksHere();
  expect([...ranks.keys()].sort()).toEqual([0, 1]);
  const started = performance.now();
  process.kill(ranks.get(1)!, "SIGKILL");
  expect(await child.exited).not.toBe(0);
  expect(performance.now() - started).toBeLessThan(20_000);
  expect(await said()).toMatch(/rank 1 .*signal 9|Killed/);
  expect([...ranksHere().keys()]).toEqual([]);
}, 120_000);

test("and all end when it is told to", async () => {
  const { child, url } = await serve();
  await complete(url);
  child.kill("SIGTERM");
  await child.exited;
  await Bun.sleep(500);
  expect([...ranksHere().keys()]).toEqual([]);
}, 120_000);
