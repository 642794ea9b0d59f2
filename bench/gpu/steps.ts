import type { Graph } from "../../src/device/graph.ts";
import { native } from "../../src/ffi/library.ts";
import { median } from "../bench.ts";
import {
  bareRow,
  type GpuBench,
  type GpuCase,
  type GpuRow,
  hold,
  type Launch,
  launchesOf,
  replayTimes,
  timeOf,
} from "./bench.ts";
import { DecodeWorld, usualDim } from "./decode.ts";

/** Layers of a measured step. */
const stepLayers = 32;

/** What a call costs on the host, and whole decode steps as captured graphs. */
export const stepCases: GpuCase[] = [
  { name: "launch/run_b64_kv1024", run: launchPath },
  { name: "graph/step32_b64_h32_8_d128_kv4096", run: (bench) => steps(bench, 64, 4096, 1.05) },
  { name: "graph/step32_b1_h32_8_d128_kv1024", run: (bench) => steps(bench, 1, 1024, 1.3) },
];

function worldOf(bench: GpuBench, batch: number, keys: number, layers: number, graph: boolean) {
  const lengths = new Array<number>(bench.quick ? Math.min(batch, 2) : batch).fill(
    bench.quick ? 80 : keys,
  );
  const heads = { queryHeads: 32, kvHeads: 8, headDim: usualDim, queries: 1 };
  const rows = { ...heads, kvDtype: "bf16", layout: "NHD", lengths, layers, graph } as const;
  return DecodeWorld.create(bench, rows);
}

/** Host time of attention.run above the bare launches of the same kernels. */
async function launchPath(bench: GpuBench): Promise<GpuRow[]> {
  const { device, quick } = bench;
  using world = await worldOf(bench, 64, 1024, 1, false);
  world.run(0);
  const launches = launchesOf(device, () => world.run(0)).filter(({ grid }) => grid > 0);
  await device.stream.done();
  const [calls, rounds] = quick ? [2, 2] : [50, 40];
  const bare: number[] = [];
  const whole: number[] = [];
  for (let round = 0; round < rounds; round++) {
    // Launches are timed while the device is busy: none of them starts.
    hold(device, quick ? 10 : 3000);
    bare.push(microsecondsOf(calls, () => launches.forEach(launchBare)));
    device.stream.wait();
    hold(device, quick ? 10 : 3000);
    whole.push(microsecondsOf(calls, () => world.run(0)));
    device.stream.wait();
  }
  // The first rounds compile the JavaScript.
  const [bareUs, wholeUs] = [bare, whole].map((times) => median(times.slice(times.length >> 1)));
  const above = wholeUs - bareUs;
  return [
    bareRow("launch/bare_b64_kv1024", bareUs, "us"),
    bareRow("", wholeUs, "us"),
    {
      ...bareRow("launch/run_above_bare", above, "us"),
      target: "at most 1.5 us",
      met: above <= 1.5,
    },
  ];
}

function launchBare({ stream, kernel, params, grid }: Launch): void {
  native().fb_launch(stream.handle, kernel.handle, params.view, kernel.paramsBytes, grid);
}

function microsecondsOf(calls: number, body: () => void): number {
  const started = performance.now();
  for (let call = 0; call < calls; call++) body();
  return ((performance.now() - started) * 1000) / calls;
}

/**
 * A decode step of 32 layers (append and attention) as a captured graph: its replay against the sum
 * of its kernels, each kind measured in a graph of its own; and steps in which the host reserves
 * and plans the next while one runs, against replays alone.
 */
async function steps(
  bench: GpuBench,
  batch: number,
  keys: number,
  most: number,
): Promise<GpuRow[]> {
  const { device } = bench;
  const { stream } = device;
  const layers = bench.quick ? 2 : stepLayers;
  using world = await worldOf(bench, batch, keys, layers, true);
  const queue = () => {
    for (let layer = 0; layer < layers; layer++) {
      world.append(layer);
      world.run(layer);
    }
  };
  // The plan and changes of the page table go up once per step, whatever layers there are.
  queue();
  const launches = launchesOf(device, queue).filter(({ grid }) => grid > 0);
  using graph = device.capture(stream, queue, "decode step");
  const kernelMs = await sumOfKernels(bench, launches, layers);
  const replayMs = median(await replayTimes(bench, graph, bench.seconds));
  const stepMs = await pipelined(bench, world, graph);
  const planUs = hostMicroseconds(bench, world);
  const base = `graph/step32_b${batch}_h32_8_d128_kv${keys}`;
  const ratio = replayMs / kernelMs;
  const overlap = stepMs / replayMs;
  return [
    bareRow(`${base}/kernels`, kernelMs * 1000, "us"),
    {
      ...bareRow(`${base}/replay`, replayMs * 1000, "us"),
      target: `at most ${most}x its kernels: ${ratio.toFixed(3)}x`,
      met: ratio <= most,
    },
    bareRow(`${base}/host`, planUs, "us"),
    {
      ...bareRow(`${base}/step`, stepMs * 1000, "us"),
      target: `planning overlaps, at most ${most}x the replay: ${overlap.toFixed(3)}x`,
      met: overlap <= most,
    },
  ];
}

/**
 * Milliseconds of all launches, kind by kind: the same kernel of every layer, one after the other.
 */
async function sumOfKernels(
  bench: GpuBench,
  launches: readonly Launch[],
  layers: number,
): Promise<number> {
  const kinds = launches.length / layers;
  let sum = 0;
  for (let kind = 0; kind < kinds; kind++) {
    const ms = await timeOf(bench, layers, (layer) => {
      const { stream, kernel, params, grid } = launches[layer * kinds + kind];
      bench.device.launch(stream, kernel, params, grid);
    });
    sum += ms * layers;
  }
  return sum;
}

/** Milliseconds a step of a loop that reserves, plans and replays without ever waiting. */
async function pipelined(bench: GpuBench, world: DecodeWorld, graph: Graph): Promise<number> {
  const { device, quick } = bench;
  const { stream } = device;
  const count = quick ? 2 : 20;
  using start = device.createEvent("benchmark");
  using end = device.createEvent("benchmark");
  const times: number[] = [];
  for (let round = 0; round < (quick ? 1 : 5); round++) {
    for (let step = 0; step < count; step++) {
      world.step();
      graph.replay(stream);
      // The first step finds an idle device.
      if (step === 0) start.record(stream);
    }
    end.record(stream);
    await stream.done();
    times.push(start.elapsedMs(end) / (count - 1));
    for (let step = 0; step < count; step++) world.rewind();
  }
  world.step();
  return median(times);
}

/** Microseconds of reserving and planning a step on the host. */
function hostMicroseconds({ quick }: GpuBench, world: DecodeWorld): number {
  const times: number[] = [];
  for (let round = 0; round < (quick ? 2 : 200); round++) {
    world.rewind();
    const started = performance.now();
    world.step();
    times.push((performance.now() - started) * 1000);
  }
  return median(times);
}
