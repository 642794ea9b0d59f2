import type { Device } from "../../src/device/device.ts";
import type { Graph } from "../../src/device/graph.ts";
import type { Kernel } from "../../src/device/kernel.ts";
import type { Stream } from "../../src/device/stream.ts";
import { ProbeParams } from "../../src/ffi/params.gen.ts";
import { Params } from "../../src/ffi/params.ts";
import { type Measured, median } from "../bench.ts";
import type { Peer, PeerCase } from "../peers/peer.ts";

/** What this GPU can do at most, measured in the same run, in 1e9 bytes per second. */
export interface Ceilings {
  readGBs: number;
  /** Read and written bytes together. */
  copyGBs: number;
  /** What the peer's large matrix product reaches, in 1e12 operations; null without a peer. */
  matmulTflops: number | null;
}

/** What every benchmark is given. */
export interface GpuBench {
  device: Device;
  ceilings: Ceilings;
  peer: Peer | undefined;
  /** The peer's implementations to ask. */
  backends: readonly string[];
  /** True: next to no data and work, to see that it works (on an emulated GPU too). */
  quick: boolean;
  /** Seconds to measure a figure for. */
  seconds: number;
}

/** What one implementation of the peer reached, in the row's unit. */
export interface PeerFigure {
  backend: string;
  value: number;
  /** Times as fast as it. */
  ratio: number;
}

/** A row with the figures of every peer that ran. */
export interface GpuRow extends Measured {
  peers: PeerFigure[];
}

/** A named benchmark; its rows have its name, or that and an ending. */
export interface GpuCase {
  name: string;
  run(bench: GpuBench): Promise<GpuRow[]>;
}

/** Data in turn exceed the last level of caches this many times, so that they come from memory. */
const coldTimes = 5;

/** Least kernels of a measured graph: what launching it costs is then little. */
const launchesLeast = 20;

/** Replays that are queued together; of each lot the first does not count, it finds an idle GPU. */
const lot = 4;

/** How many copies of data of so many bytes are taken in turn. */
export function copiesOf({ device, quick }: GpuBench, bytes: number): number {
  if (quick) return 2;
  return Math.max(2, Math.ceil((coldTimes * device.lastLevelCacheBytes) / bytes));
}

/** Runs of a measured graph: all copies equally often, and enough of them. */
export function runsOf({ quick }: GpuBench, copies: number): number {
  return quick ? copies : copies * Math.ceil(launchesLeast / copies);
}

/** A row without roofline and peers. */
export function bareRow(name: string, value: number, unit: string): GpuRow {
  return { name, value, unit, ofRoofline: null, peer: null, ofPeer: null, peers: [] };
}

/**
 * Captures what `body` queues, as it is: replays check nothing, so that one plan can be measured
 * again and again. Everything has to be uploaded before.
 */
export function recorded(device: Device, body: () => void): Graph {
  return device.captures.record(device.stream, body, "benchmark");
}

/** Milliseconds of replays by the device's clock, for about so many seconds. */
export async function replayTimes(
  { device, quick }: GpuBench,
  graph: Graph,
  seconds: number,
): Promise<number[]> {
  const { stream } = device;
  const marks = Array.from({ length: 1 + lot }, () => device.createEvent("benchmark"));
  const times: number[] = [];
  const deadline = performance.now() + seconds * 1000;
  do {
    for (const mark of marks) {
      if (mark !== marks[0]) graph.replay(stream);
      mark.record(stream);
    }
    await stream.done();
    for (let i = quick ? 0 : 1; i < lot; i++) times.push(marks[i].elapsedMs(marks[i + 1]));
  } while (performance.now() < deadline);
  for (const mark of marks) mark[Symbol.dispose]();
  return times;
}

/** Median milliseconds of one of `runs` runs that `body` queues, by number, as one graph. */
export async function timeOf(
  bench: GpuBench,
  runs: number,
  body: (run: number) => void,
): Promise<number> {
  using graph = recorded(bench.device, () => {
    for (let run = 0; run < runs; run++) body(run);
  });
  return median(await replayTimes(bench, graph, bench.seconds)) / runs;
}

/**
 * Times `runs` runs as one graph, half of the time before the peer's implementations are asked and
 * half after, so that a change of clocks hits both. `figureOf` turns milliseconds of one run into
 * the unit.
 */
export async function besidePeers(
  bench: GpuBench,
  runs: number,
  body: (run: number) => void,
  peerCase: Omit<PeerCase, "seconds">,
  figureOf: (milliseconds: number) => number,
): Promise<{ ms: number; peers: PeerFigure[] }> {
  using graph = recorded(bench.device, () => {
    for (let run = 0; run < runs; run++) body(run);
  });
  const times = await replayTimes(bench, graph, bench.seconds / 2);
  const answers = await askPeers(bench, peerCase);
  times.push(...(await replayTimes(bench, graph, bench.seconds / 2)));
  const ms = median(times) / runs;
  return { ms, peers: figuresOf(answers, ms, figureOf) };
}

/** Milliseconds of each implementation of the peer that takes the case. */
export async function askPeers(
  { peer, backends, seconds }: GpuBench,
  peerCase: Omit<PeerCase, "seconds">,
): Promise<{ backend: string; ms: number }[]> {
  const answers: { backend: string; ms: number }[] = [];
  for (const backend of backends) {
    const answer = await peer!.ask({ ...peerCase, backend, seconds });
    if (answer.seconds !== undefined) answers.push({ backend, ms: answer.seconds * 1000 });
    else sayOnce(`${backend}: ${answer.error}`);
  }
  return answers;
}

/** The peer's times in the unit of a row that took so many milliseconds. */
export function figuresOf(
  answers: readonly { backend: string; ms: number }[],
  milliseconds: number,
  figureOf: (milliseconds: number) => number,
): PeerFigure[] {
  return answers.map(({ backend, ms }) => {
    return { backend, value: figureOf(ms), ratio: ms / milliseconds };
  });
}

const said = new Set<string>();

/** Says why a peer's implementation has no figure, the first time. */
function sayOnce(text: string): void {
  if (!said.has(text)) process.stderr.write(`bench:gpu: ${text}\n`);
  said.add(text);
}

/** What is to be reached beside a peer's implementation: times as fast, at least. */
export interface PeerTarget {
  backend: string;
  least: number;
}

/** Nothing that the peer pages as well may be faster. */
export const asFlashInfer: PeerTarget = { backend: "flashinfer", least: 1 };

/** The columns of a row that speak of peers: the one of the first target, else the fastest. */
export function peerColumns(peers: PeerFigure[], targets: readonly PeerTarget[] = []) {
  const found = targets.map(({ backend, least }) => {
    return { least, peer: peers.find((candidate) => candidate.backend === backend) };
  });
  const fastest = peers.toSorted((a, b) => a.ratio - b.ratio).at(0);
  const shown = found[0]?.peer ?? fastest;
  const known = found.filter(({ peer }) => peer !== undefined);
  return {
    peers,
    peer: shown?.value ?? null,
    ofPeer: shown?.ratio ?? null,
    target: targets.map(({ backend, least }) => `${least}x ${backend}`).join(", ") || undefined,
    met: known.length === 0 ? undefined : known.every(({ peer, least }) => peer!.ratio >= least),
  };
}

/** Parameters of whatever kernel. */
class CopiedParams extends Params {}

/** Parameters of a launch as they are now. */
export function copyOf(params: Params, { paramsBytes }: Kernel): Params {
  const copy = new CopiedParams(new ArrayBuffer(params.view.byteLength), 0, paramsBytes);
  copy.view.set(params.view.subarray(0, paramsBytes));
  return copy;
}

/** A launch as it was made. */
export interface Launch {
  stream: Stream;
  kernel: Kernel;
  params: Params;
  grid: number;
}

/** The launches that `body` makes, each with a copy of its parameters; they run as well. */
export function launchesOf(device: Device, body: () => void): Launch[] {
  const launches: Launch[] = [];
  using _ = device.observe({
    launched({ stream, kernel, params, grid }) {
      if (kernel === undefined || params === undefined) return;
      launches.push({ stream, kernel, params: copyOf(params, kernel), grid });
    },
  });
  body();
  return launches;
}

/** Holds the default stream for a while, so that what is queued next does not start at once. */
export function hold(device: Device, microseconds: number): void {
  const params = new ProbeParams();
  params.microseconds = microseconds;
  device.launch(device.stream, device.kernel("probe_spin"), params, 1);
}

/** Reads and copies memory far beyond the caches. */
export async function measureCeilings(
  device: Device,
  peer: Peer | undefined,
  quick: boolean,
): Promise<Ceilings> {
  const bench: GpuBench = {
    device,
    quick,
    seconds: quick ? 0 : 0.3,
    peer: undefined,
    backends: [],
    ceilings: { readGBs: 0, copyGBs: 0, matmulTflops: null },
  };
  const bytes = quick ? 1 << 20 : Math.max(1 << 30, 2 * coldTimes * device.lastLevelCacheBytes);
  const slices = device.processors * 8;
  using source = device.alloc(bytes, "read ceiling");
  using target = device.alloc(bytes, "copy ceiling");
  using sums = device.alloc(slices * 8, "read sums");
  const { stream } = device;
  stream.fill(source.address, 1, bytes);
  const params = new ProbeParams();
  params.data = source.address;
  params.bytes = bytes;
  params.out = sums.address;
  params.iterations = slices;
  const kernel = device.kernel("probe_read");
  const runs = quick ? 1 : 4;
  const readMs = await timeOf(bench, runs, () => device.launch(stream, kernel, params, slices));
  const copyMs = await timeOf(bench, runs, () =>
    stream.copy(target.address, source.address, bytes),
  );
  const matmulTflops = (await peer?.ask({ backend: "ceilings" }))?.matmulTflops ?? null;
  return { readGBs: bytes / readMs / 1e6, copyGBs: (2 * bytes) / copyMs / 1e6, matmulTflops };
}
