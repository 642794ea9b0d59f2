import type { DeviceKind } from "../../device/open.ts";
import { Engine, fetchSmolLm2 } from "../../engine/index.ts";

/** Options of an engine, as the command line parsed them. */
export interface EngineArguments {
  device: DeviceKind;
  dtype?: "f32" | "f16" | "bf16";
  pages?: number;
  pageSize: number;
  tokenBudget?: number;
  maxBatch?: number;
  randomWeights?: boolean;
  cascade: boolean;
  quiet?: boolean;
}

/** Options of sampling, as the command line parsed them. */
export interface SamplingArguments {
  maxTokens?: number;
  temperature?: number;
  topK?: number;
  topP?: number;
  seed?: number;
}

/** The name of the model that pip fetches. */
const builtIn = "smollm2";

/** Opens a model by its path, or the built-in one by its name, and says so. */
export async function openEngine(model: string, options: EngineArguments): Promise<Engine> {
  const { device, dtype, pages, pageSize, tokenBudget, maxBatch, cascade, randomWeights, quiet } =
    options;
  const say = (text: string) => void (quiet || process.stderr.write(`flashbun: ${text}\n`));
  const path = model === builtIn && !randomWeights ? await fetchSmolLm2(say) : model;
  const started = performance.now();
  const engine = await Engine.load(path, {
    device,
    pageSize,
    cascade,
    ...(tokenBudget !== undefined && { tokenBudget }),
    ...(maxBatch !== undefined && { maxBatch }),
    ...(dtype && { dtype }),
    ...(randomWeights && { randomWeights }),
    ...(pages !== undefined && { pages }),
  });
  say(`${engine.summary()}; loaded in ${((performance.now() - started) / 1000).toFixed(1)} s`);
  return engine;
}

/** What the options say of sampling; those that were not given are the model's. */
export function samplingOf({ maxTokens, temperature, topK, topP, seed }: SamplingArguments) {
  return {
    ...(maxTokens !== undefined && { maxTokens }),
    sampling: {
      ...(temperature !== undefined && { temperature }),
      ...(topK !== undefined && { topK }),
      ...(topP !== undefined && { topP }),
      ...(seed !== undefined && { seed }),
    },
  };
}

/** Calls `stop` on Ctrl-C or SIGTERM until disposed; returns the exit code of the last one. */
export function onSignals(stop: () => void): Disposable & { readonly exitCode: number } {
  let exitCode = 0;
  const interrupted = () => {
    exitCode = 130;
    stop();
  };
  const terminated = () => {
    exitCode = 143;
    stop();
  };
  process.on("SIGINT", interrupted);
  process.on("SIGTERM", terminated);
  return {
    get exitCode() {
      return exitCode;
    },
    [Symbol.dispose]() {
      process.off("SIGINT", interrupted);
      process.off("SIGTERM", terminated);
    },
  };
}
