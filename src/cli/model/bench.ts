import type { Engine } from "../../engine/index.ts";
import { OptionError } from "../../errors.ts";
import { aboutRun } from "../about.ts";
import { ApiTarget } from "../bench/api-target.ts";
import { drive } from "../bench/drive.ts";
import { EngineTarget } from "../bench/engine-target.ts";
import { engineFigures, figureRows, figuresOf } from "../bench/figures.ts";
import { LoopLag } from "../bench/lag.ts";
import type { Lengths } from "../bench/lengths.ts";
import { afterWarmUp, type BenchRequest, generatedLoad, tracedLoad } from "../bench/load.ts";
import type { Target } from "../bench/target.ts";
import { wordCount } from "../bench/words.ts";
import { readTrace } from "../../replay/trace.ts";
import { requireWritable, textStream, writeWhole } from "../outputs.ts";
import { table } from "../table.ts";
import { type EngineArguments, onSignals, openEngine } from "./engine.ts";
import { modelPlaces } from "./given.ts";

/** Options of `flashbun bench`. */
export interface BenchArguments extends EngineArguments {
  url?: string;
  apiKey?: string;
  chat?: boolean;
  plain?: boolean;
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
  report?: string;
}

/** Clients of a closed loop where nothing is said. */
const clientsDefault = 16;

/** Who is measured. */
interface Subject extends AsyncDisposable {
  readonly target: Target;
  /** In a line. */
  readonly about: string;
  /** Ids of prompts are below it. */
  readonly vocabulary: number;
  readonly contextTokens: number;
  /** In this process. */
  readonly engine?: Engine;
}

/** Measures an engine or a server under a load and prints the figures. Returns the exit code. */
export async function benchCommand(
  model: string | undefined,
  options: BenchArguments,
): Promise<number> {
  const outputs = { "--json": options.json, "--report": options.report };
  requireWritable(outputs, { "--trace": options.trace });
  const { rate, samples, temperature } = options;
  const requests = options.requests + options.warmUp;
  // What is wrong with it is said before a model is loaded.
  const trace = options.trace && (await readTrace(options.trace, { requests }));
  await using subject = await subjectOf(model, options);
  const { target, engine } = subject;
  const asking = trace ? tracedLoad(trace, subject) : loadOf(subject, requests, options);
  const { warming, measured } = afterWarmUp(asking, options.warmUp);
  const abort = new AbortController();
  using signals = onSignals(() => abort.abort());
  const isOpen = rate !== undefined || (trace !== undefined && options.clients === undefined);
  const clients = isOpen ? undefined : (options.clients ?? clientsDefault);
  const driving = { clients, samples, temperature, signal: abort.signal };
  // What comes first compiles kernels, captures graphs and grows buffers.
  await drive(target, warming, { ...driving, clients: clients ?? clientsDefault });
  const before = engine?.stats();
  using lag = new LoopLag();
  const asked = await drive(target, measured, driving);
  if (abort.signal.aborted)
    process.stderr.write("flashbun: interrupted; the figures are those up to here\n");
  const figures = figuresOf(asked);
  const ofEngine = before && engineFigures(before, engine!.stats());
  const rows = figureRows(figures, ofEngine, lag.figures);
  textStream(outputs).write(table(rows, [0, 1]));
  const load = loadSaid(options, clients);
  const said = { model: subject.about, load, ...figures, ...ofEngine, loopLagMs: lag.figures };
  if (options.json !== undefined) {
    const requests = asked.map((each) => ({ ...each, answersMs: each.answersMs.map(rounded) }));
    await writeWhole(options.json, `${JSON.stringify({ ...said, requests }, null, 1)}\n`);
  }
  if (options.report !== undefined) {
    const { benchPage } = await import("../bench/report.ts");
    const loadLine = Object.entries(load)
      .map(([name, value]) => `${name} ${value}`)
      .join(", ");
    const texts = { title: subject.about, load: loadLine, about: aboutRun(), rows };
    await writeWhole(options.report, await benchPage(asked, figures, texts));
  }
  return figures.failed > 0 && signals.exitCode === 0 ? 1 : signals.exitCode;
}

/** Milliseconds to a hundredth. */
function rounded(times: readonly number[]): number[] {
  return times.map((time) => Math.round(100 * time) / 100);
}

async function subjectOf(model: string | undefined, options: BenchArguments): Promise<Subject> {
  const { url, chat = false, plain = false } = options;
  const key = options.apiKey ?? process.env["FLASHBUN_API_KEY"];
  if (url !== undefined) {
    const api = { url: url.replace(/\/+$/, ""), key, model, chat, plain };
    const target = await ApiTarget.open(api);
    const { contextTokens } = target;
    const about = `${target.model} at ${url}`;
    return {
      target,
      about,
      vocabulary: wordCount,
      contextTokens,
      async [Symbol.asyncDispose]() {},
    };
  }
  for (const [option, value] of Object.entries({ chat, plain, apiKey: options.apiKey ?? false }))
    if (value !== false)
      throw new OptionError(option, value, "beside --url", "it says how a server is asked.");
  if (model === undefined) {
    const allowed = `${modelPlaces}, unless --url is given`;
    throw new OptionError("model", model, allowed, "flashbun bench smollm2.");
  }
  const engine = await openEngine(model, options);
  return {
    target: new EngineTarget(engine),
    about: engine.summary(),
    vocabulary: engine.model.shape.vocabulary,
    contextTokens: engine.model.shape.contextTokens,
    engine,
    [Symbol.asyncDispose]: () => engine[Symbol.asyncDispose](),
  };
}

/** The load, as the options said it. */
function loadSaid(options: BenchArguments, clients: number | undefined): Record<string, unknown> {
  const { promptTokens, outputTokens, sharedTokens, trace, rate, samples } = options;
  return {
    ...(trace === undefined
      ? { promptTokens: promptTokens.name, outputTokens: outputTokens.name, sharedTokens }
      : { trace }),
    ...(clients !== undefined ? { clients } : rate !== undefined && { rate }),
    samples,
  };
}

function loadOf(subject: Subject, requests: number, options: BenchArguments): BenchRequest[] {
  const { rate, sharedTokens, seed, promptTokens: prompt, outputTokens: output } = options;
  const { vocabulary, contextTokens } = subject;
  const most = sharedTokens + prompt.most + output.most;
  if (most > contextTokens) {
    const allowed = `lengths of at most ${contextTokens} together`;
    throw new OptionError("promptTokens", most, allowed, "give shorter ones.");
  }
  return generatedLoad({ requests, prompt, output, sharedTokens, rate, seed, vocabulary });
}
