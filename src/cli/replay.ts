import { basename } from "node:path";
import type { Device } from "../device/device.ts";
import type { DeviceKind } from "../device/open.ts";
import { summarize, summaryTable } from "../replay/metrics.ts";
import { shapeOf } from "../replay/shapes.ts";
import type { ReplayOptions, ReplayRequest, ReplayResult } from "../replay/types.ts";
import { requireInteger } from "../require.ts";
import { aboutRun } from "./about.ts";
import { requireWritable, textStream, writeWhole } from "./outputs.ts";
import { counted } from "../shown.ts";
import { openProgress } from "./progress.ts";

/** Options of `flashbun replay`, as the command line parsed them. */
export interface ReplayArguments {
  trace?: string;
  requests: number;
  scaleLengths: number;
  speed?: number;
  rate?: number;
  lengths?: "log-normal" | "zipf";
  lenient?: boolean;
  /** Tokens of one of a trace's hash ids. */
  hashBlock?: number;
  shape: string;
  layers: number;
  pages?: number;
  pageSize: number;
  tokenBudget: number;
  maxBatch?: number;
  dtype?: "f32" | "f16" | "bf16";
  seed: number;
  verify: number;
  device: DeviceKind;
  graph: "auto" | "on" | "off";
  threads?: number;
  json?: string;
  report?: string;
  traceEvents?: string;
  quiet?: boolean;
}

interface Workload {
  name: string;
  requests: ReplayRequest[];
}

/** How many generated requests `all` means. */
const generatedMax = 10_000;
/** Requests at once, unless the token budget is smaller: each takes a token of it. */
const maxBatchDefault = 64;
/** Pages of the cache unless one request needs more. */
const pagesDefault = 2048;

/**
 * Runs a workload and writes what was asked for.
 * @returns the exit code: 1 on a wrong output, 130 when interrupted
 * @throws FlashbunError for options and input that cannot be used
 */
export async function replayCommand(options: ReplayArguments): Promise<number> {
  const outputs = {
    "--json": options.json,
    "--report": options.report,
    "--trace-events": options.traceEvents,
  };
  requireWritable(outputs, { "--trace": options.trace });
  const shape = shapeOf(options.shape);
  if (options.layers !== Infinity) requireInteger("layers", options.layers, 1, shape.layers);
  const say = (text: string) => void (options.quiet || process.stderr.write(`replay: ${text}\n`));
  const workload = await loadWorkload(options, say);
  const { requests } = workload;
  const replayOptions: ReplayOptions = {
    shape,
    layers: options.layers === Infinity ? shape.layers : options.layers,
    pages: options.pages ?? defaultPages(requests, options.pageSize),
    pageSize: options.pageSize,
    tokenBudget: options.tokenBudget,
    maxBatch: options.maxBatch ?? Math.min(maxBatchDefault, options.tokenBudget),
    speed: options.speed ?? (options.rate === undefined ? Infinity : 1),
    verify: options.verify,
    seed: options.seed,
    device: options.device,
    graph: options.graph,
    threads: options.threads,
    dtype: options.dtype,
    trace: workload.name,
  };
  const { dtypeOn, openDevice } = await import("../replay/parts.ts");
  await using device = await openDevice(replayOptions);
  replayOptions.dtype = dtypeOn(device, replayOptions);
  say(`${introduction(workload, replayOptions)}, on ${device.name}`);
  const { result, signal } = await runReplay(device, requests, replayOptions, options.quiet);
  const summary = summarize(result);
  if (!options.quiet) {
    if (result.interrupted) say("interrupted; the figures are those up to here");
    textStream(outputs).write(`\n${summaryTable(summary)}`);
  }
  await writeOutputs(options, result, say);
  if (summary.verified.failed > 0) {
    const misses = result.verified.misses.slice(0, 5).map((miss) => `  ${miss}\n`);
    process.stderr.write(`flashbun: outputs differ from the f64 reference:\n${misses.join("")}`);
    return 1;
  }
  return signal === "SIGTERM" ? 143 : result.interrupted ? 130 : 0;
}

async function loadWorkload(
  options: ReplayArguments,
  say: (text: string) => void,
): Promise<Workload> {
  const { trace: path, requests: count, scaleLengths, seed, lenient, hashBlock } = options;
  if (path === undefined) {
    const { generateWorkload, workloadDefaults: defaults } = await import("../replay/workload.ts");
    const scaled = (length: number) => Math.max(1, Math.round(length * scaleLengths));
    const requests = generateWorkload({
      requests: Math.min(count, generatedMax),
      rate: options.rate,
      lengths: options.lengths,
      promptMean: scaled(defaults.promptMean),
      outputMean: scaled(defaults.outputMean),
      systemTokens: scaled(defaults.systemTokens),
      seed,
    });
    return { name: `generated (${options.lengths ?? defaults.lengths}, seed ${seed})`, requests };
  }
  const { readTrace } = await import("../replay/trace.ts");
  const trace = await readTrace(path, { requests: count, scaleLengths, lenient, seed, hashBlock });
  if (trace.skipped > 0)
    say(`skipped ${counted(trace.skipped, "line")} of ${path}: ${trace.whySkipped}`);
  const scale = scaleLengths === 1 ? "" : `, lengths x ${scaleLengths}`;
  return { name: `${basename(path)} (${trace.format}${scale})`, requests: trace.requests };
}

/** Enough for the longest request, which otherwise could never run. */
function defaultPages(requests: readonly ReplayRequest[], pageSize: number): number {
  let longest = 0;
  for (const { promptTokens, outputTokens } of requests)
    longest = Math.max(longest, promptTokens.length + outputTokens);
  return Math.max(pagesDefault, Math.ceil(longest / pageSize) + 1);
}

function introduction({ name, requests }: Workload, options: ReplayOptions): string {
  let prompt = 0;
  let output = 0;
  for (const request of requests) {
    prompt += request.promptTokens.length;
    output += request.outputTokens;
  }
  const { shape, layers, dtype, pages, pageSize } = options;
  return (
    `${counted(requests.length, "request")}, ${prompt} prompt and ` +
    `${counted(output, "output token")}, ${name}; ` +
    `${shape.name}, ${layers} of ${counted(shape.layers, "layer")}, ${dtype}, ` +
    `${counted(pages, "page")} of ${counted(pageSize, "token")}`
  );
}

/**
 * A program that started this one may forward a Ctrl-C that this one got itself: both count as one.
 */
const sameSignalMs = 500;

/** Runs the workload; the first Ctrl-C ends it after its step, a later one at once. */
async function runReplay(
  device: Device,
  requests: ReplayRequest[],
  options: ReplayOptions,
  quiet = false,
): Promise<{ result: ReplayResult; signal: string | undefined }> {
  const abort = new AbortController();
  let signal: string | undefined;
  let signalled = 0;
  const interrupt = (name: string) => {
    if (signal !== undefined && performance.now() - signalled > sameSignalMs) process.exit(130);
    signal ??= name;
    if (signalled === 0) signalled = performance.now();
    abort.abort();
  };
  process.on("SIGINT", interrupt).on("SIGTERM", interrupt);
  try {
    const { replay } = await import("../replay/replay.ts");
    const { warmUp } = await import("../replay/warm-up.ts");
    await warmUp({ ...options, signal: abort.signal }, device);
    const place = device.kind === "cpu" ? "cpu" : device.label;
    const progress = quiet
      ? undefined
      : await openProgress(process.stderr, requests.length, options.pages, place);
    try {
      const onStep: ReplayOptions["onStep"] = progress && ((...step) => progress.step(...step));
      const result = await replay(requests, { ...options, onStep, signal: abort.signal }, device);
      return { result, signal };
    } finally {
      progress?.end();
    }
  } finally {
    process.off("SIGINT", interrupt).off("SIGTERM", interrupt);
  }
}

async function writeOutputs(
  options: ReplayArguments,
  result: ReplayResult,
  say: (text: string) => void,
): Promise<void> {
  if (options.json !== undefined) {
    await writeWhole(options.json, `${JSON.stringify(summarize(result), null, 2)}\n`);
    say(`summary in ${placeOf(options.json)}`);
  }
  if (options.report !== undefined) {
    const { reportPage } = await import("../replay/report.ts");
    await writeWhole(options.report, await reportPage(result, aboutRun()));
    say(`report in ${placeOf(options.report)}`);
  }
  if (options.traceEvents !== undefined) {
    const { traceEvents } = await import("../replay/perfetto.ts");
    await writeWhole(options.traceEvents, JSON.stringify(traceEvents(result)));
    say(`events for Perfetto in ${placeOf(options.traceEvents)} (open at ui.perfetto.dev)`);
  }
}

function placeOf(path: string): string {
  return path === "-" ? "the standard output" : path;
}
