import { availableParallelism } from "node:os";
import { CompileError } from "../errors.ts";
import { askNvrtc, type CompilerAnswer, type NvrtcJob, nvrtcWorker } from "../ffi/nvrtc.ts";
import { compileAllEmulatedSync, compileEmulated, compileEmulatedSync } from "./emulated.ts";
import { readClampFaults } from "./machine-code.ts";
import { findNvrtc } from "./nvrtc.ts";
import { describeSpecialization, languageFlags, type Specialization } from "./specialization.ts";
import { emulated } from "./target.ts";

/** NVRTC holds some hundred megabytes a thread, so many cores do not all compile. */
const compilersMax = Math.min(availableParallelism(), 16);
const patienceMs = 1000;
const logLinesShown = 20;

const key = Symbol.for("flashbun compilers");
const home = globalThis as { [key]?: Worker[] };
/** Workers without a job: on globalThis, so that a hot reload starts no others. */
const idle = (home[key] ??= []);
const waiting: (() => void)[] = [];
let running = 0;
let unfinished = 0;

/** Compiles the expanded text of a specialisation, off this thread. */
export async function compile(
  specialization: Specialization,
  text: string,
  architecture: string,
): Promise<Uint8Array<ArrayBuffer>> {
  const stopNotice = notice(architecture);
  if (running === compilersMax) await new Promise<void>((go) => waiting.push(go));
  else running++;
  try {
    const answer =
      architecture === emulated
        ? await compileEmulated(text)
        : await askWorker(nvrtcJob(specialization, text, architecture));
    return imageIn(answer, specialization, architecture);
  } finally {
    stopNotice();
    // Whoever waits takes this place.
    const next = waiting.shift();
    if (next === undefined) running--;
    else next();
  }
}

/** As compile, on this thread, which says at a terminal what it waits for. */
export function compileSync(
  specialization: Specialization,
  text: string,
  architecture: string,
): Uint8Array<ArrayBuffer> {
  sayCompiling(specialization.source, architecture);
  const answer =
    architecture === emulated
      ? compileEmulatedSync(text)
      : askNvrtc(nvrtcJob(specialization, text, architecture));
  return imageIn(answer, specialization, architecture);
}

/** As compileSync, of several for the emulated GPU beside each other; until one has failed. */
export function* compileAllSync(
  jobs: readonly { readonly specialization: Specialization; readonly text: string }[],
): Generator<Uint8Array<ArrayBuffer>> {
  if (jobs.length > 0) sayCompiling(kernels(jobs.length), emulated);
  const answers = compileAllEmulatedSync(jobs.map(({ text }) => text));
  for (const [i, answer] of answers.entries())
    yield imageIn(answer, jobs[i].specialization, emulated);
}

function imageIn(
  answer: CompilerAnswer,
  specialization: Specialization,
  architecture: string,
): Uint8Array<ArrayBuffer> {
  if ("failure" in answer) throw failed(specialization, architecture, answer.failure, answer.log);
  const faults = architecture === emulated ? [] : readClampFaults(answer.image);
  if (faults.length === 0) return answer.image;
  const fix = "Fix: do that where a hook clamps, or set FLASHBUN_NVRTC to another version.";
  throw failed(specialization, architecture, "ptxas makes it wrong", [...faults, fix].join("\n"));
}

function failed(
  specialization: Specialization,
  architecture: string,
  failure: string,
  log: string,
): CompileError {
  const lines = log.trim().split("\n");
  const more = lines.length > logLinesShown ? ["... (the rest is in the error's log)"] : [];
  const what = `${describeSpecialization(specialization)} for ${architecture}`;
  const shown = [...lines.slice(0, logLinesShown), ...more].join("\n");
  return new CompileError(`${what} did not compile: ${failure}\n${shown}`, log);
}

function nvrtcJob(specialization: Specialization, text: string, architecture: string): NvrtcJob {
  const { found, tried } = findNvrtc();
  if (found === undefined) {
    const wanted = `${describeSpecialization(specialization)} for ${architecture}`;
    throw new CompileError(
      `${wanted} is neither embedded nor cached, ` +
        `and no NVRTC was found to compile it. Looked in: ${tried.join("; ")}. ` +
        "Fix: pip install nvidia-cuda-nvrtc==13.0.88, or set FLASHBUN_NVRTC to libnvrtc.so.13.",
      "",
    );
  }
  const { library, builtins } = found;
  // Generic lambdas count as code of the host otherwise, of which NVRTC compiles none.
  const space = "--device-as-default-execution-space";
  const options = [`--gpu-architecture=${architecture}`, space, ...languageFlags];
  return { library, builtins, name: specialization.source, text, options };
}

/** Gives a job to a worker that has none; workers without one do not keep the process alive. */
function askWorker(job: NvrtcJob): Promise<CompilerAnswer> {
  const worker = idle.pop() ?? nvrtcWorker();
  worker.ref();
  return new Promise((resolve) => {
    worker.onmessage = ({ data }: MessageEvent<CompilerAnswer>) => {
      worker.unref();
      idle.push(worker);
      resolve(data);
    };
    // A worker that broke is not asked again.
    worker.onerror = ({ message }) => resolve({ failure: `the worker broke: ${message}`, log: "" });
    worker.postMessage(job);
  });
}

let noticeTimer: ReturnType<typeof setTimeout> | undefined;

/** Shows a notice once, after a while, that kernels are being compiled, if there is a terminal. */
function notice(architecture: string): () => void {
  unfinished++;
  noticeTimer ??= setTimeout(() => {
    sayCompiling(kernels(unfinished), architecture);
  }, patienceMs).unref();
  return () => {
    if (--unfinished > 0) return;
    clearTimeout(noticeTimer);
    noticeTimer = undefined;
  };
}

const kernels = (count: number) => (count === 1 ? "1 kernel" : `${count} kernels`);

function sayCompiling(what: string, architecture: string): void {
  if (!process.stderr.isTTY) return;
  // Behind a line that moves, as that of loading weights, it takes its place.
  process.stderr.write(
    `\r\x1b[Kflashbun: compiling ${what} for ${architecture}, kept for later runs\n`,
  );
}
