import { Model } from "../../src/models/model.ts";
import { fillNormal } from "../../src/tensor/random.ts";
import { randomCheckpoint } from "../../src/weights/random.ts";
import { median } from "../bench.ts";
import {
  bareRow,
  copyOf,
  type GpuBench,
  type GpuCase,
  type GpuRow,
  type Launch,
  recorded,
  replayTimes,
} from "./bench.ts";

/** A step of decodes of a whole model. */
export interface ModelStep {
  readonly batch: number;
  /** Of each request. */
  readonly keys: number;
}

const steps: readonly ModelStep[] = [1, 16, 64].map((batch) => ({ batch, keys: 1152 }));
const shapeName = "llama-8b";
/** For a run that only shows that it works. */
const smallShape = {
  num_hidden_layers: 2,
  hidden_size: 512,
  intermediate_size: 512,
  num_attention_heads: 4,
  num_key_value_heads: 1,
  vocab_size: 512,
};
const pageSize = 16;

/** Decode steps of a model as captured graphs, and what each kernel of a layer has of them. */
export const modelCases: GpuCase[] = steps.map((step) => ({
  name: nameOf(step),
  async run(bench) {
    const used = bench.quick ? { batch: Math.min(step.batch, 2), keys: 40 } : step;
    await using model = await load(bench, [used]);
    const launches = await launchesOfStep(model, used);
    return [await wholeStep(bench, step, launches), ...(await parts(bench, step, model, launches))];
  },
}));

function nameOf({ batch, keys }: ModelStep, part = ""): string {
  return `model/${shapeName}/b${batch}_kv${keys}${part && `/${part}`}`;
}

/** A model of random weights with room for these steps, whose cache is full of noise. */
export async function load(
  { device, quick }: GpuBench,
  of: readonly ModelStep[],
  { shape = shapeName, dtype = "bf16" }: { shape?: string; dtype?: "bf16" | "f16" } = {},
): Promise<Model> {
  const random = randomCheckpoint(shape);
  const config = quick ? { ...random.config, ...smallShape } : random.config;
  const pages = of.map(({ batch, keys }) => batch * (Math.ceil(keys / pageSize) + 1));
  const model = await Model.load(
    device,
    { ...random, config },
    {
      dtype,
      pages: Math.max(...pages),
      pageSize,
      tokenBudget: 2048,
      maxBatch: Math.max(...of.map(({ batch }) => batch)),
      cascade: true,
      exact: false,
    },
  );
  for (let layer = 0; layer < model.shape.layers; layer++)
    for (const [i, { name }] of model.cache.planes.entries())
      fillNormal(model.cache.plane(layer, name), { seed: 2 * layer + i });
  return model;
}

/** The launches that the graph of a step has; they run as well. */
export async function launchesOfStep(model: Model, { batch, keys }: ModelStep): Promise<Launch[]> {
  const { device, cache } = model;
  const sequences = Array.from({ length: batch }, () => cache.sequence());
  const reserve = (each: number) => {
    const counts = new Int32Array(batch).fill(each);
    const reserved = model.reserve(sequences, counts, batch * each);
    if (!reserved.ok) throw reserved.error;
    return reserved;
  };
  cache.markWritten(reserve(keys - 1));
  const launches: Launch[] = [];
  using _ = device.observe({
    launched({ stream, kernel, params, grid }) {
      // A step runs once as it is, then it is captured.
      if (device.capturing && kernel !== undefined && params !== undefined && grid > 0)
        launches.push({ stream, kernel, params: copyOf(params, kernel), grid });
    },
  });
  const rows = Int32Array.from({ length: batch }, (_, i) => i);
  const step = { batch: reserve(1), sequences, ids: rows, logitRows: rows, wanted: batch };
  const jobs = sequences.map(() => ({ adapter: 0, scheduled: 1 }));
  model.forward({ ...step, jobs, parts: "all" });
  await device.stream.done();
  for (const sequence of sequences) sequence.free();
  return launches;
}

/** Microseconds of launches as one graph. */
export async function microsecondsOf(
  bench: GpuBench,
  launches: readonly Launch[],
): Promise<number> {
  const { device } = bench;
  using graph = recorded(device, () => {
    for (const { stream, kernel, params, grid } of launches)
      device.launch(stream, kernel, params, grid);
  });
  return 1000 * median(await replayTimes(bench, graph, bench.seconds));
}

/** The captured step as it is. */
async function wholeStep(
  bench: GpuBench,
  step: ModelStep,
  launches: readonly Launch[],
): Promise<GpuRow> {
  return bareRow(nameOf(step, "step"), await microsecondsOf(bench, launches), "us");
}

/**
 * Of each kernel of a layer its time by itself, in a graph of that launch of all layers, and by how
 * much a step is shorter without it: less, where it overlaps with others.
 */
export async function parts(
  bench: GpuBench,
  step: ModelStep,
  { shape: { layers } }: Model,
  launches: readonly Launch[],
): Promise<GpuRow[]> {
  const [first, count] = layerOf(launches, layers);
  const end = first + layers * count;
  const rows = [bareRow(nameOf(step, "launches of a layer"), count, "")];
  const stepUs = await microsecondsOf(bench, launches);
  for (let kind = 0; kind < count; kind++) {
    const isOwn = (_: Launch, i: number) => i >= first && i < end && (i - first) % count === kind;
    const own = launches.filter(isOwn);
    const others = launches.filter((launch, i) => !isOwn(launch, i));
    const alone = (await microsecondsOf(bench, own)) / layers;
    const less = (stepUs - (await microsecondsOf(bench, others))) / layers;
    const { kernel, grid } = own[0];
    const row = bareRow(nameOf(step, `${kind + 1} ${kernel.name}, ${grid} items`), alone, "us");
    rows.push({ ...row, target: `the step without it: ${less.toFixed(2)} us less per layer` });
  }
  const ends = launches.filter((_, i) => i < first || i >= end);
  return [
    ...rows,
    bareRow(nameOf(step, "around the layers"), await microsecondsOf(bench, ends), "us"),
  ];
}

/** Where the first layer begins, and launches of each: names repeat from layer to layer. */
function layerOf(launches: readonly Launch[], layers: number): [number, number] {
  const names = launches.map(({ kernel }) => kernel.name);
  const first = names.findIndex((name) => name.startsWith("norm_"));
  for (let count = Math.floor((names.length - first) / layers); count > 0; count--) {
    const isSame = (name: string, i: number) => name === names[first + count + i];
    if (names.slice(first, first + (layers - 1) * count).every(isSame)) return [first, count];
  }
  throw new Error(`no layer repeats in ${names.join(" ")}`);
}
