import { writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { compileEmulated } from "../../src/jit/emulated.ts";
import { emulatedLibrary } from "../support/targets.ts";

/** One change of a kernel's text that takes something away which the kernel needs. */
export interface Mutant {
  /** What changes, by function and occurrence: lines move too often. */
  readonly name: string;
  readonly text: string;
}

/** What orders one thing after another: calls as statements, whose value is not used. */
const order =
  /(?<=^\s*(?:else |if \(.*\) )?)(?:__sync\w+|(?:\w+\.)?sync|\w*(?:wait|fence|commit|arrive|barrier)\w*)(?:<[^;]*>)?\([^;]*\);/;
const opensFunction =
  /^(?:template <.*> )?FB_DEVICE .*?(\w+)\(|^FB_(?:KERNEL|(?:SPLIT_)?OPERATOR)\((\w+)/;
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
const patienceMs = 30_000;
let images = 0;

/** Compiles a text into a folder; returns the image's file and bytes. */
export async function imageOf(
  text: string,
  folder: string,
): Promise<{ path: string; bytes: Uint8Array }> {
  const answer = await compileEmulated(text);
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
): Promise<string> {
  const command = [process.execPath, join(import.meta.dir, script), JSON.stringify(job)];
  const FLASHBUN_EMULATOR = `order=${order},sms=${sms},threads=1,timeout=2`;
  const child = Bun.spawn(command, {
    env: { ...process.env, FLASHBUN_LIBCUDA: emulatedLibrary, FLASHBUN_EMULATOR },
    stdout: "pipe",
    stderr: "pipe",
    timeout: patienceMs,
  });
  const [said, complained] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  if ((await child.exited) === 0) return said;
  if (child.signalCode !== null) return `stopped by ${child.signalCode}`;
  return /^\w*rror: .*$/m.exec(complained)?.[0] ?? complained;
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
