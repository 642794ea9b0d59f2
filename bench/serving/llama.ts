import { dirname, join } from "node:path";
import type { BenchRequest } from "../../src/cli/bench/load.ts";
import type { Asked, Asking, Target } from "../../src/cli/bench/target.ts";

/** What is used of node-llama-cpp, which is no dependency. */
interface LlamaModule {
  getLlama(options: object): Promise<{ loadModel(options: object): Promise<LlamaModel> }>;
}
interface LlamaModel {
  createContext(options: object): Promise<LlamaContext>;
  dispose(): Promise<void>;
}
interface LlamaContext {
  getSequence(): LlamaSequence;
  dispose(): Promise<void>;
}
interface LlamaSequence {
  evaluate(tokens: number[], options: object): AsyncIterable<number>;
  clearHistory(): Promise<void>;
}

/** Tokens of a context are a multiple of it. */
const contextStep = 256;

/** node-llama-cpp on the CPU, with what its package brings: it builds and downloads nothing. */
export class Llama implements AsyncDisposable {
  private constructor(
    readonly version: string,
    private readonly model: LlamaModel,
    private readonly threads: number,
  ) {}

  /** Loads a GGUF file by the package in the node_modules of a folder. */
  static async open(folder: string, modelPath: string, threads: number): Promise<Llama> {
    const path = Bun.resolveSync("node-llama-cpp", folder);
    const { version } = await Bun.file(join(dirname(path), "..", "package.json")).json();
    const { getLlama } = (await import(path)) as LlamaModule;
    const offline = { build: "never", skipDownload: true };
    const llama = await getLlama({
      gpu: false,
      maxThreads: threads,
      logLevel: "error",
      ...offline,
    });
    return new Llama(version, await llama.loadModel({ modelPath, gpuLayers: 0 }), threads);
  }

  /** A target for so many clients at once, each with room for the tokens. */
  async target(clients: number, tokens: number): Promise<LlamaTarget> {
    const contextSize = Math.ceil((tokens + 1) / contextStep) * contextStep;
    const { threads } = this;
    const sizes = { contextSize, sequences: clients, threads };
    return new LlamaTarget(await this.model.createContext(sizes));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.model.dispose();
  }
}

/** One context; each request takes one of its sequences and gives it back empty. */
class LlamaTarget implements Target, AsyncDisposable {
  // A sequence that is disposed of is free some time later only.
  private readonly idle: LlamaSequence[] = [];

  constructor(private readonly context: LlamaContext) {}

  async ask({ prompt, outputTokens }: BenchRequest, asking: Asking): Promise<Asked> {
    const { temperature, now } = asking;
    const askedMs = now();
    const times: number[] = [];
    const sequence = this.idle.pop() ?? this.context.getSequence();
    for await (const _ of sequence.evaluate([...prompt], { temperature, yieldEogToken: true })) {
      times.push(now());
      if (times.length === outputTokens) break;
    }
    await sequence.clearHistory();
    this.idle.push(sequence);
    const counts = { promptTokens: prompt.length, cachedTokens: 0, outputTokens: times.length };
    return { askedMs, answersMs: [times], ...counts };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.context.dispose();
  }
}
