import { applyRope, Attention, Rope, Tensor } from "../../src/index.ts";
import type { GpuBench } from "../gpu/bench.ts";
import { launchesOfStep, load, microsecondsOf } from "../gpu/model.ts";
import { dtype } from "./shape.ts";
import type { Measurement, PaperTable } from "./table.ts";

const sinks = 4;

export const streamingTable: PaperTable = {
  id: "figure9-streaming",
  title: `Figure 9, top: StreamingLLM, a step of one stream of a 13B model with ${sinks} sinks`,
  unit: "ms",
  paperOther: "RoPE, FlashAttention",
  other: "RoPE of all keys, then attention",
  notes: [
    "Vicuna 13B's shape with random weights (40 layers, 40/40 heads), a captured step by the " +
      "device's clock; the paper has MT-Bench and latencies that its chart does not give as " +
      "numbers. It says that latency falls by 28 to 30 %.",
    "Both sides are this library's: the cache holds unrotated keys, which attention turns as it " +
      "reads them, or which are turned for each step in a launch before it. That launch takes " +
      "little of a step in which reading 26 GB of weights takes most.",
  ],
  rows: [1000, 2000, 4000].map((window) => ({
    shape: `window ${window}`,
    paper: null,
    measure: (bench: GpuBench) => measure(bench, window + sinks),
  })),
};

async function measure(bench: GpuBench, keys: number): Promise<Measurement> {
  const step = { batch: 1, keys: bench.quick ? 40 : keys };
  await using model = await load(bench, [step], { shape: "llama-13b", dtype });
  const { device, cache, kit, shape } = model;
  using made = new DisposableStack();
  const milliseconds = async () => {
    // What was captured is the other side's.
    (Reflect.get(model, "graphs") as Disposable)[Symbol.dispose]();
    return (await microsecondsOf(bench, await launchesOfStep(model, step))) / 1e3;
  };
  const { attend } = kit;
  const rope = made.use(Rope.create(device, shape.headDim, {}));
  const places = Int32Array.from({ length: step.keys }, (_, i) => i);
  const positions = made.use(Tensor.from(device, places, [step.keys], "i32"));
  kit.attend = (layer, qkv, norms) => {
    const keysOfLayer = cache
      .plane(layer, "key")
      .reshape(cache.options.pages * cache.options.pageSize, shape.kvHeads, shape.headDim);
    applyRope(keysOfLayer.slice(0, 0, step.keys), undefined, positions, rope);
    return attend.call(kit, layer, qkv, norms);
  };
  const other = await milliseconds();
  kit.attend = attend;
  const { queryHeads, kvHeads, headDim } = shape;
  const rows = { maxBatch: 1, maxQueryTokens: 1, maxQueryLength: 1, buckets: [1] };
  const graph = { ...rows, maxColumns: Math.ceil(keys / cache.options.pageSize) + 1 };
  const heads = { queryHeads, kvHeads, headDim, dtype, causal: true, rope: {}, graph } as const;
  const turning = made.use(await Attention.create(device, heads));
  const parts = Reflect.get(model, "parts") as { captured: { plain: Attention[] } };
  made.use(parts.captured.plain[0]);
  parts.captured.plain[0] = turning;
  return { flashbun: await milliseconds(), other };
}
