import type { Device } from "../src/device/device.ts";
import { readRate } from "../src/device/probe.ts";
import { ProbeParams } from "../src/ffi/params.gen.ts";
import type { Peer } from "./peers/peer.ts";

/** One measured figure. */
export interface Row {
  name: string;
  value: number;
  unit: string;
  /** Part of the roofline of the same run, 0 to 1; null where there is none. */
  ofRoofline: number | null;
  /** The peer's figure in the same unit. */
  peer: number | null;
  /** Times as fast as the peer. */
  ofPeer: number | null;
}

/** A row with what it should reach. */
export interface Measured extends Row {
  /** The target in words, and whether the figure meets it. */
  target?: string;
  met?: boolean;
  /** What else the row says, such as the ceilings measured beside it. */
  more?: string;
}

/** What this machine can do at most, measured in the same run. */
export interface Ceilings {
  readGBs: number;
  fmaGflops: number;
}

/** What every benchmark is given. */
export interface Bench {
  device: Device;
  peer: Peer | undefined;
  /** True: shorter runs and smaller data, to see that it works. */
  quick: boolean;
  /** Seconds to measure a row for. */
  seconds: number;
}

/** A named benchmark; `run` gives its row or rows. */
export interface Case {
  name: string;
  run(bench: Bench): Promise<Measured | Measured[]>;
}

/** A row without roofline and peer. */
export function plainRow(name: string, value: number, unit: string): Measured {
  return { name, value, unit, ofRoofline: null, peer: null, ofPeer: null };
}

/** Read rate of memory and rate of multiply-adds, on all threads of the device. */
export async function measureCeilings(device: Device, quick: boolean): Promise<Ceilings> {
  const readGBs = await readRate(device, quick ? 64 << 20 : 1 << 30);
  return { readGBs, fmaGflops: await fmaRate(device, quick) };
}

/**
 * Multiply-adds on all threads in 1e9 operations per second, two for each; the best of three.
 */
async function fmaRate(device: Device, quick: boolean): Promise<number> {
  const items = device.processors * 8;
  using out = device.alloc(items * 8, "probe");
  using start = device.createEvent();
  using end = device.createEvent();
  const params = new ProbeParams();
  params.out = out.address;
  params.iterations = quick ? 100_000 : 500_000;
  let best = 0;
  for (let pass = 0; pass < 3; pass++) {
    start.record(device.stream);
    device.launch(device.stream, device.kernel("probe_fma"), params, items);
    end.record(device.stream);
    await device.stream.done();
    const operations = new Float64Array(out.hostBytes()).reduce((sum, part) => sum + part, 0);
    best = Math.max(best, operations / start.elapsedMs(end) / 1e6);
  }
  return best;
}

/** Kernel time and what the machine could do beside it, each the median of its rounds. */
export interface Paired {
  ms: number;
  ceilings: Ceilings;
  /**
   * Part of the roofline: the larger of bytes over the read rate and operations over the FMA peak.
   */
  ofRoofline: number;
}

/**
 * Measures what `queue` queues in rounds, in each of them both ceilings right beside it: on a
 * shared machine only such neighbours can be compared. A call moves `bytes` and does `flops`
 * operations.
 */
export async function pairedWithCeilings(
  { device, quick }: Bench,
  seconds: number,
  bytes: number,
  flops: number,
  queue: (turn: number) => void,
): Promise<Paired> {
  const times: number[] = [];
  const reads: number[] = [];
  const fmas: number[] = [];
  const parts: number[] = [];
  const probeBytes = quick ? 64 << 20 : 256 << 20;
  const deadline = performance.now() + seconds * 1000;
  for (let round = 0; round < 3 || performance.now() < deadline; round++) {
    const before = [await fmaRate(device, quick), await readRate(device, probeBytes)];
    const ms = await deviceMs(device, seconds / 16, queue);
    const read = (before[1] + (await readRate(device, probeBytes))) / 2;
    const fma = (before[0] + (await fmaRate(device, quick))) / 2;
    times.push(ms);
    reads.push(read);
    fmas.push(fma);
    parts.push(Math.max(bytes / read, flops / fma) / ms / 1e6);
  }
  const ceilings = { readGBs: median(reads), fmaGflops: median(fmas) };
  return { ms: median(times), ceilings, ofRoofline: median(parts) };
}

/** The ceilings of a row in words. */
export function besides({ readGBs, fmaGflops }: Ceilings): string {
  return `beside ${readGBs.toFixed(1)} GB/s, ${fmaGflops.toFixed(0)} GFLOP/s`;
}

/**
 * Median milliseconds of what `queue` queues, by the device's clock: `queue` is called in turn with
 * 0, 1, 2, ... until `seconds` have passed, after two warm-ups.
 */
export async function deviceMs(
  device: Device,
  seconds: number,
  queue: (turn: number) => void,
): Promise<number> {
  using start = device.createEvent();
  using end = device.createEvent();
  const times: number[] = [];
  const deadline = performance.now() + seconds * 1000;
  for (let turn = 0; turn < 5 || performance.now() < deadline; turn++) {
    start.record(device.stream);
    queue(turn);
    end.record(device.stream);
    await device.stream.done();
    if (turn >= 2) times.push(start.elapsedMs(end));
  }
  return median(times);
}

/** The middle of the values, which are sorted in place. */
export function median(values: number[]): number {
  values.sort((a, b) => a - b);
  return values[values.length >> 1];
}
