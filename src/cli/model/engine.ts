import type { DeviceKind } from "../../device/open.ts";
import { Engine, fetchSmolLm2 } from "../../engine/index.ts";
import { ranksOf } from "../../comm/ranks.ts";
import { LoadLine } from "./load-line.ts";
import { builtIn, requireGiven } from "./given.ts";
import { endWithParent, isAlone, startRanks } from "./ranks.ts";
import { onSignals } from "./signals.ts";
import { type SpeculateArguments, speculateOf } from "./speculate.ts";

export { onSignals };

/** Options of an engine, as the command line parsed them. */
export interface EngineArguments extends SpeculateArguments {
  device: DeviceKind;
  dtype?: "f32" | "f16" | "bf16";
  pages?: number;
  pageSize: number;
  tokenBudget?: number;
  maxBatch?: number;
  randomWeights?: boolean;
  cascade: boolean;
  exact?: boolean;
  deterministic?: boolean;
  tp?: number;
  dcp?: number;
  quiet?: boolean;
  /** Folders of adapters by name. */
  lora?: Record<string, string>;
}

/** Options of sampling, as the command line parsed them. */
export interface SamplingArguments {
  maxTokens?: number;
  temperature?: number;
  topK?: number;
  topP?: number;
  seed?: number;
}

/** Opens a model by its path, or the built-in one by its name, and says so. */
export async function openEngine(model: string, options: EngineArguments): Promise<Engine> {
  const { device, dtype, pages, pageSize, tokenBudget, maxBatch, cascade, randomWeights } = options;
  const { tp = 1, dcp = 1, exact, deterministic, quiet, lora } = options;
  requireGiven(model, options);
  if (tp > 1 && isAlone()) {
    // This command again, as so many ranks.
    const command = [process.execPath, ...process.argv.slice(1)];
    process.exit(await startRanks(command, tp, device));
  }
  if (tp > 1) endWithParent();
  const say = (text: string) => void (quiet || process.stderr.write(`flashbun: ${text}\n`));
  const pathOf = async (name: string) =>
    name === builtIn && !randomWeights ? await fetchSmolLm2(say) : name;
  const path = await pathOf(model);
  const started = performance.now();
  using progress = new LoadLine(process.stderr);
  const engine = await Engine.load(path, {
    device,
    pageSize,
    cascade,
    ...(tokenBudget !== undefined && { tokenBudget }),
    ...(maxBatch !== undefined && { maxBatch }),
    ...(dtype && { dtype }),
    ...(randomWeights && { randomWeights }),
    ...(exact && { exact }),
    ...(deterministic && { deterministic }),
    ...(tp > 1 && { tp }),
    ...(dcp > 1 && { dcp }),
    ...(pages !== undefined && { pages }),
    ...(lora && { adapters: lora }),
    ...(await speculateOf(options, pathOf)),
    ...(!quiet && (ranksOf()?.rank ?? 0) === 0 && { onLoad: (now) => progress.show(now) }),
  });
  progress.end();
  if (engine.rank > 0) {
    // Signals are rank 0's: this one ends with it.
    using _ = onSignals(() => {});
    await engine.follow();
    await engine[Symbol.asyncDispose]();
    process.exit(0);
  }
  say(`${engine.summary()}; loaded in ${((performance.now() - started) / 1000).toFixed(1)} s`);
  return engine;
}

/** The one adapter of a command that answers one reader. */
export function adapterOf({ lora }: EngineArguments): { adapter?: string } {
  return lora === undefined ? {} : { adapter: Object.keys(lora)[0] };
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
