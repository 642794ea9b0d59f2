import type { Engine } from "../../engine/index.ts";
import { OptionError } from "../../errors.ts";
import { drive } from "../bench/drive.ts";
import { figuresOf, figuresTable } from "../bench/figures.ts";
import type { Lengths } from "../bench/lengths.ts";
import { type BenchRequest, generatedLoad, tracedLoad } from "../bench/load.ts";
import { requireWritable, textStream, writeWhole } from "../outputs.ts";
import { type EngineArguments, onSignals, openEngine } from "./engine.ts";

/** Options of `flashbun bench`. */
export interface BenchArguments extends EngineArguments {
  requests: number;
  clients?: number;
  rate?: number;
  promptTokens: Lengths;
  outputTokens: Lengths;
  sharedTokens: number;
  samples: number;
  trace?: string;
  temperature: number;
  warmUp: number;
  seed: number;
  json?: string;
}

/** Clients of a closed loop where nothing is said. */
const clientsDefault = 16;

/** Measures an engine under a load and prints the figures. Returns the exit code. */
export async function benchCommand(model: string, options: BenchArguments): Promise<number> {
  const outputs = { "--json": options.json };
  requireWritable(outputs, { "--trace": options.trace });
  await using engine = await openEngine(model, options);
  const requests = await loadOf(engine, options);
  const abort = new AbortController();
  using signals = onSignals(() => abort.abort());
  const { rate, trace, samples, temperature } = options;
  const isOpen = rate !== undefined || (trace !== undefined && options.clients === undefined);
  const clients = isOpen ? undefined : (options.clients ?? clientsDefault);
  const driving = { clients, samples, temperature, signal: abort.signal };
  // What comes first compiles kernels, captures graphs and grows buffers.
  const warming = requests.slice(0, options.warmUp);
  await drive(engine, warming, { ...driving, clients: clients ?? clientsDefault });
  const before = engine.stats();
  const answers = await drive(engine, requests.slice(warming.length), driving);
  const figures = figuresOf(answers, before, engine.stats());
  textStream(outputs).write(figuresTable(figures));
  const { promptTokens, outputTokens, sharedTokens } = options;
  const load = {
    ...(trace === undefined
      ? { promptTokens: promptTokens.name, outputTokens: outputTokens.name, sharedTokens }
      : { trace }),
    ...(clients === undefined ? { rate } : { clients }),
    samples,
  };
  const said = { model: engine.summary(), load, ...figures };
  if (options.json !== undefined)
    await writeWhole(options.json, `${JSON.stringify(said, null, 2)}\n`);
  return signals.exitCode;
}

async function loadOf(engine: Engine, options: BenchArguments): Promise<BenchRequest[]> {
  const { trace, rate, sharedTokens, seed, promptTokens: prompt, outputTokens: output } = options;
  const { vocabulary, contextTokens } = engine.model.shape;
  const requests = options.requests + options.warmUp;
  if (trace !== undefined) return await tracedLoad(trace, requests, { vocabulary, contextTokens });
  const most = sharedTokens + prompt.most + output.most;
  if (most > contextTokens) {
    const allowed = `lengths of at most ${contextTokens} together`;
    throw new OptionError("promptTokens", most, allowed, "give shorter ones.");
  }
  return generatedLoad({ requests, prompt, output, sharedTokens, rate, seed, vocabulary });
}
