import { join } from "node:path";

/** One attention that a peer runs: the same shapes, threads and machine as ours. */
export interface PeerCase {
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

/** PyTorch in a process of its own, asked one case at a time; absent where it cannot be imported. */
export class TorchPeer {
  readonly #input: Bun.FileSink;
  readonly #lines: AsyncGenerator<string>;
  readonly #stop: () => void;

  private constructor(
    readonly version: string,
    input: Bun.FileSink,
    lines: AsyncGenerator<string>,
    stop: () => void,
  ) {
    this.#input = input;
    this.#lines = lines;
    this.#stop = stop;
  }

  /** Starts the peer with so many threads; undefined where Python or torch is missing. */
  static async start(threads: number): Promise<TorchPeer | undefined> {
    const python = Bun.which("python3");
    if (python === null) return undefined;
    const script = join(import.meta.dir, "sdpa.py");
    const child = Bun.spawn([python, script, String(threads)], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "ignore",
    });
    const lines = linesOf(child.stdout);
    const first = await lines.next();
    if (first.done) return undefined;
    const { version } = JSON.parse(first.value) as { version: string };
    return new TorchPeer(version, child.stdin, lines, () => child.kill());
  }

  /** Median seconds of one call. */
  async seconds(peerCase: PeerCase): Promise<number | undefined> {
    this.#input.write(`${JSON.stringify(peerCase)}\n`);
    await this.#input.flush();
    const line = await this.#lines.next();
    return line.done ? undefined : (JSON.parse(line.value) as { seconds: number }).seconds;
  }

  /** Ends the peer's process. */
  stop(): void {
    this.#stop();
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
