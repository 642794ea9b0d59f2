import { resolve } from "node:path";

/** One attention that a peer runs: the same shapes and machine as ours. */
export interface PeerCase {
  /** Which of the peer's implementations, where it has several. */
  backend?: string;
  dtype: string;
  batch: number;
  queryHeads: number;
  kvHeads: number;
  dim: number;
  queries: number;
  keys: number;
  causal: boolean;
  /** Copies of keys and values used in turn. */
  copies: number;
  /** Seconds to measure for. */
  seconds: number;
}

/** What a peer says: median seconds of one call, or why there are none. */
export interface PeerAnswer {
  seconds?: number;
  error?: string;
}

/** Longest wait for a peer's answer, in milliseconds: it may compile first. */
const patience = 120_000;

/** Another library in a Python process of its own, asked one case at a time. */
export class Peer {
  readonly #child: Bun.Subprocess<"pipe", "pipe", "ignore">;
  readonly #lines: AsyncGenerator<string>;
  #gone = false;

  private constructor(
    readonly version: string,
    readonly backends: readonly string[],
    child: Bun.Subprocess<"pipe", "pipe", "ignore">,
    lines: AsyncGenerator<string>,
  ) {
    this.#child = child;
    this.#lines = lines;
  }

  /** Starts a script of this folder; undefined where Python or what it imports is missing. */
  static async start(script: string, args: string[] = []): Promise<Peer | undefined> {
    const python = Bun.which("python3");
    if (python === null) return undefined;
    const child = Bun.spawn([python, resolve(import.meta.dir, script), ...args], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "ignore",
    });
    const lines = linesOf(child.stdout);
    const first = await lines.next();
    if (first.done) return undefined;
    const { version, backends = [] } = JSON.parse(first.value);
    return new Peer(version, backends, child, lines);
  }

  /** Runs one case. A peer that died or does not answer says so from then on. */
  async ask(peerCase: PeerCase): Promise<PeerAnswer> {
    if (this.#gone) return { error: "the peer is gone" };
    this.#child.stdin.write(`${JSON.stringify(peerCase)}\n`);
    await this.#child.stdin.flush();
    let timer: Timer | undefined;
    const late = new Promise<undefined>((resolve) => {
      timer = setTimeout(() => resolve(undefined), patience);
    });
    const line = await Promise.race([this.#lines.next(), late]);
    clearTimeout(timer);
    if (line !== undefined && !line.done) return JSON.parse(line.value) as PeerAnswer;
    this.stop();
    return { error: line === undefined ? "the peer does not answer" : "the peer died" };
  }

  /** Ends the peer's process. */
  stop(): void {
    this.#gone = true;
    this.#child.kill();
  }
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
