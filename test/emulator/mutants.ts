import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { compileEmulated } from "../../src/jit/emulated.ts";
import { reportsIn, watchedIn } from "../support/races.ts";
import { emulatedLibrary } from "../support/targets.ts";

/** One change of a kernel's text that takes something away which the kernel needs. */
export interface Mutant {
  /** What changes, by function and occurrence: lines move too often. */
  readonly name: string;
  readonly text: string;
}

const orders = [
  "__sync\\w+",
  "(?:\\w+\\.)?sync",
  "\\w*(?:wait|fence|commit|arrive|barrier|release)\\w*",
];
/** What orders one thing after another: calls as statements, whose value is not used. */
const order = new RegExp(
  String.raw`(?<=^\s*(?:else |if \(.*\) )?)(?:${orders.join("|")})(?:<[^;]*>)?\([^;]*\);`,
);
const opensFunction =
  /^\s*(?:static )?(?:template <.*> )?FB_DEVICE .*?(\w+)\(|^FB_(?:KERNEL|(?:SPLIT_)?OPERATOR)\((\w+)/;
const opensFile = /^#line \d+ "(.*)"/;

/** The text without each wait, barrier, fence and commit that a source of `folder` has, in turn. */
export function withoutEachWait(text: string, folder: string): Mutant[] {
  const lines = text.split("\n");
  const mutants: Mutant[] = [];
  const seen = new Map<string, number>();
  let file = "";
  let where = "";
  for (const [at, line] of lines.entries()) {
    file = opensFile.exec(line)?.[1] ?? file;
    const opened = opensFunction.exec(line);
    if (opened !== null) where = opened[1] ?? opened[2];
    const code = line.replace(/\/\/.*$/, "");
    const call = file.startsWith(folder) ? order.exec(code) : null;
    if (call === null) continue;
    const what = `${basename(file)}, ${where}: ${call[0].slice(0, -1)}`;
    const count = (seen.get(what) ?? 0) + 1;
    seen.set(what, count);
    const less = `${code.slice(0, call.index)};${code.slice(call.index + call[0].length)}`;
    mutants.push({ name: `${what} #${count}`, text: lines.with(at, less).join("\n") });
  }
  return mutants;
}

/** The text with one piece of its code replaced, which must be there exactly once. */
export function withOther(text: string, name: string, piece: string, other: string): Mutant {
  const parts = text.split(piece);
  if (parts.length !== 2)
    throw new Error(`"${piece}" stands ${parts.length - 1} times in the kernel: ${name}`);
  return { name, text: parts.join(other) };
}

/** Orders in which the emulated GPU runs a mutant until it is caught. */
export const schedules = ["fifo", "greedy", "random,seed=1", "random,seed=2", "random,seed=3"];
/** How long a kernel may run without one of its waits, and one that is whole and is compiled. */
export const patienceMs = 30_000;
const wholeMs = 300_000;
let images = 0;

/** Compiles a text into a folder; returns the image's file and bytes. */
export async function imageOf(
  text: string,
  folder: string,
): Promise<{ path: string; bytes: Uint8Array }> {
  const answer = await compileEmulated(text, "thorough");
  if ("failure" in answer) throw new Error(`${answer.failure}\n${answer.log}`);
  const path = join(folder, `${images++}.so`);
  writeFileSync(path, answer.image);
  return { path, bytes: answer.image };
}

/** What a child process that runs a script of this folder with a job prints, or why it failed. */
export async function outcomeOf(
  script: string,
  job: object,
  order: string,
  sms: number,
  timeout = wholeMs,
): Promise<string> {
  const FLASHBUN_EMULATOR = `order=${order},sms=${sms},threads=1,timeout=2`;
  const env = { FLASHBUN_LIBCUDA: emulatedLibrary, FLASHBUN_EMULATOR };
  const end = await ended(script, job, env, timeout);
  return end.code === 0 ? end.stdout : failureOf(end);
}

/** How such a process ends under the race detector. */
export interface Watched {
  /** What the detector reports; "": nothing. */
  readonly report: string;
  /** Why the process failed, as outcomeOf says; "": it did not. */
  readonly failure: string;
}

/**
 * What counts as a thread of the detector: of more than 255 it forgets what the others did, and a
 * block has 512 lanes; of a warp it sees no race between lanes.
 */
export type ThreadKind = "lanes" | "warps";

export async function watch(
  script: string,
  job: object,
  sms: number,
  kind: ThreadKind,
): Promise<Watched> {
  const folder = mkdtempSync(join(tmpdir(), "flashbun-races-"));
  try {
    const races = kind === "warps" ? "races=warps," : "";
    const env = watchedIn(folder, `${races}order=greedy,sms=${sms},threads=1,timeout=60`);
    const end = await ended(script, job, env, wholeMs);
    return { report: reportsIn(folder), failure: end.code === 0 ? "" : failureOf(end) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** How a child process ended. */
interface End {
  readonly code: number;
  readonly signal: string | number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function failureOf({ signal, stderr }: End): string {
  if (signal !== null) return `stopped by ${signal}`;
  return /^\w*rror: .*$/m.exec(stderr)?.[0] ?? stderr;
}

async function ended(
  script: string,
  job: object,
  env: Readonly<Record<string, string>>,
  timeout: number,
): Promise<End> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, script), JSON.stringify(job)], {
    env: { ...process.env, ...env },
    stdout: "pipe",
    stderr: "pipe",
    timeout,
  });
  const [stdout, stderr] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code: await child.exited, signal: child.signalCode, stdout, stderr };
}

/** What the driver or the comparison, and nothing else, say of a kernel that goes wrong. */
export const wrong = /^\{|^stopped|CUDA_ERROR_|error: (request|rows past)/;

/** The results of some work for each item, two at a time. */
export async function each<T, R>(list: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  const queue = [...list.entries()];
  const worker = async () => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift())
      results[next[0]] = await work(next[1]);
  };
  await Promise.all([worker(), worker()]);
  return results;
}
