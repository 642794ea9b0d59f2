import { afterAll, expect, spyOn, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findMpi } from "../../scripts/mpi.ts";
import { startRanks } from "../../src/cli/model/ranks.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";
import { entry } from "./run.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-serve-ranks-"));
afterAll(() => rmSync(folder, { recursive: true }));
const sizes = { layers: 2, hidden: 64, intermediate: 96, queryHeads: 8, kvHeads: 2, headDim: 8 };
const path = writeFolder(join(folder, "tiny"), tinyModel(1, { ...sizes, context: 64, tied: true }));

/** Processes that serve under this name, by their rank. */
function ranksOf(name: string): Map<number, number> {
  const found = new Map<number, number>();
  for (const pid of readdirSync("/proc").filter((each) => /^\d+$/.test(each))) {
    try {
      const rank = /OMPI_COMM_WORLD_RANK=(\d+)/.exec(readFileSync(`/proc/${pid}/environ`, "utf8"));
      const isOurs = readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(`--name\0${name}\0`);
      if (rank !== null && isOurs) found.set(Number(rank[1]), Number(pid));
    } catch {
      // It ended while it was looked at.
    }
  }
  return found;
}

async function serve(name: string) {
  const { command, environment } = await findMpi("Open MPI");
  const [mpirun] = command(1);
  const options = ["--tp", "2", "--port", "0", "--name", name, "--quiet"];
  const child = Bun.spawn([process.execPath, entry, "serve", path, ...options], {
    stdout: "pipe",
    stderr: "pipe",
    env: {
      ...process.env,
      ...environment,
      FLASHBUN_THREADS: "1",
      FLASHBUN_COMM_SECONDS: "4",
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

async function ask(url: string): Promise<Response> {
  const body = JSON.stringify({ prompt: "ab", max_tokens: 4, temperature: 0 });
  const headers = { "content-type": "application/json" };
  return await fetch(`${url}/v1/completions`, { method: "POST", headers, body });
}

async function complete(url: string): Promise<string> {
  const response = await ask(url);
  expect(response.status).toBe(200);
  const { choices } = (await response.json()) as { choices: { text: string }[] };
  return choices[0].text;
}

/** Whom a signal goes to, what then comes of it, and what is said. */
const ends: [string, "parent" | 1, NodeJS.Signals, (code: number) => boolean, RegExp][] = [
  ["a rank is killed", 1, "SIGKILL", (code) => code !== 0, /rank 1 .*signal 9|Killed/],
  ["a rank stops", 1, "SIGSTOP", (code) => code !== 0, /flashbun: .*did not come in time.* Fix: /],
  ["it is told to", "parent", "SIGTERM", () => true, /(?:)/],
  ["it is killed", "parent", "SIGKILL", (code) => code !== 0, /(?:)/],
];

test.concurrent.each(ends)(
  "serve starts its ranks, and all end when %s",
  async (name, whom, signal, isRight, says) => {
    const { child, url, said } = await serve(name);
    expect(await complete(url)).toBe(await complete(url));
    const ranks = ranksOf(name);
    expect([...ranks.keys()].sort()).toEqual([0, 1]);
    process.kill(whom === 1 ? ranks.get(1)! : child.pid, signal);
    const code = await child.exited;
    expect([code, isRight(code)]).toEqual([code, true]);
    // They take a moment to go; one that hangs meets the test's limit.
    while (ranksOf(name).size > 0) await Bun.sleep(50);
    expect(await said()).toMatch(says);
  },
  60_000,
);

test("ranks of GPUs are started here; one that fails ends the others", async () => {
  const written = spyOn(process.stderr, "write").mockReturnValue(true);
  const command = ["sh", "-c", "[ $FLASHBUN_RANK = 1 ] && exit 3; exec sleep 60"];
  const code = await startRanks(command, 3, "cuda:0");
  expect(written.mock.calls).toEqual([
    ["flashbun: rank 1 ended with code 3, and the others with it\n"],
  ]);
  written.mockRestore();
  expect(code).toBe(3);
}, 10_000);
