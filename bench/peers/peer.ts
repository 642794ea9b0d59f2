import { resolve } from "node:path";

/** One attention that a peer runs: the same shapes and machine as ours. */
export interface PeerCase {
  /** Which of the peer's implementations, where it has several. */
  backend?: string;
  dtype: string;
  /** Of keys and values; absent: dtype. */
  kvDtype?: string;
  batch: number;
  queryHeads: number;
  kvHeads: number;
  dim: number;
  /** Of values; absent: dim. */
  valueDim?: number;
  /** Of each request, or of all. */
  queries: number | readonly number[];
  keys: number | readonly number[];
  causal: boolean;
  /** How scores differ, by a name that gpu.py knows; absent: not at all. */
  variant?: string;
  /** Tokens per page where the peer can page; absent: contiguous. */
  pageSize?: number;
  /** Copies of keys and values used in turn. */
  copies: number;
  /** Seconds to measure for. */
  seconds: number;
}

/** A product of rows with a weight [outputs, inputs]. */
export interface PeerProduct {
  backend?: string;
  dtype: string;
  rows: number;
  inputs: number;
  outputs: number;
  /** Copies of the weight used in turn. */
  copies: number;
  /** Seconds to measure for. */
  seconds: number;
}

/** An operator over rows, as rows.py knows it. */
export interface PeerRows {
  backend?: string;
  operator: string;
  dtype: string;
  rows: number;
  dim: number;
  /** Copies of its tensors used in turn. */
  copies: number;
  /** Seconds to measure for. */
  seconds: number;
}

/** What a peer says: median seconds of one call, or why there are none. */
export interface PeerAnswer {
  seconds?: number;
  error?: string;
  /** Of the backend "ceilings": what a large matrix product reaches. */
  matmulTflops?: number;
}

type Child = Bun.Subprocess<"pipe", "pipe", "ignore">;

/** A running process and what it says. */
interface Running {
  child: Child;
  lines: AsyncGenerator<string>;
}

/** Longest wait for a peer's answer, in milliseconds: it may compile first. */
const patience = 90_000;

/**
 * Another library in a Python process of its own, asked one case at a time. A backend that kills
 * the process or does not answer is not asked again, and the others go on in a new process.
 */
export class Peer {
  readonly #command: string[];
  readonly #lost = new Set<string>();
  #running: Running | undefined;

  private constructor(
    readonly version: string,
    readonly backends: readonly string[],
    command: string[],
    running: Running,
  ) {
    this.#command = command;
    this.#running = running;
  }

  /** Starts a script of this folder; undefined where Python or what it imports is missing. */
  static async start(script: string, args: string[] = []): Promise<Peer | undefined> {
    const python = Bun.which("python3");
    if (python === null) return undefined;
    const command = [python, resolve(import.meta.dir, script), ...args];
    const running = spawn(command);
    const first = await running.lines.next();
    if (first.done) return undefined;
    const { version, backends = [] } = JSON.parse(first.value);
    return new Peer(version, backends, command, running);
  }

  /** Runs one case, or what else the peer knows. */
  async ask(
    question: PeerCase | PeerProduct | PeerRows | { backend: string },
  ): Promise<PeerAnswer> {
    const { backend = "" } = question;
    if (this.#lost.has(backend)) return { error: "it failed before" };
    const { child, lines } = (this.#running ??= await this.#restarted());
    child.stdin.write(`${JSON.stringify(question)}\n`);
    await child.stdin.flush();
    const line = await within(patience, lines.next());
    if (line !== undefined && !line.done) return JSON.parse(line.value) as PeerAnswer;
    this.#lost.add(backend);
    this.stop();
    return { error: line === undefined ? "it does not answer" : "its process ended" };
  }

  /** Ends the peer's process. */
  stop(): void {
    this.#running?.child.kill();
    this.#running = undefined;
  }

  async #restarted(): Promise<Running> {
    const running = spawn(this.#command);
    await running.lines.next();
    return running;
  }
}

function spawn(command: string[]): Running {
  const child = Bun.spawn(command, { stdin: "pipe", stdout: "pipe", stderr: "ignore" });
  return { child, lines: linesOf(child.stdout) };
}

/** What the promise gives, undefined if that takes longer. */
async function within<T>(milliseconds: number, promise: Promise<T>): Promise<T | undefined> {
  let timer: Timer | undefined;
  const late = new Promise<undefined>((done) => {
    timer = setTimeout(() => done(undefined), milliseconds);
  });
  const first = await Promise.race([promise, late]);
  clearTimeout(timer);
  return first;
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) {
    text += decoder.decode(chunk, { stream: true });
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
      yield text.slice(0, end);
      text = text.slice(end + 1);
    }
  }
}
