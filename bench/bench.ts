import type { Device } from "../src/device/device.ts";
import { ProbeParams } from "../src/ffi/params.gen.ts";
import { readRate } from "../src/ops/probe.ts";
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
}

/** What this machine can do at most, measured in the same run. */
export interface Ceilings {
  readGBs: number;
  fmaGflops: number;
}

/** What every benchmark is given. */
export interface Bench {
  device: Device;
  ceilings: Ceilings;
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

async function fmaRate(device: Device, quick: boolean): Promise<number> {
  const items = device.processors * 8;
  using out = device.alloc(items * 8, "probe");
  using start = device.createEvent();
  using end = device.createEvent();
  const params = new ProbeParams();
  params.out = out.address;
  params.iterations = quick ? 100_000 : 2_000_000;
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

/**
 * Kernel time against the read rate measured right beside it, in rounds: [median ms of `queue`, median
 * GB/s of plain reading, median of their ratio]. On a shared machine only such pairs say anything.
 */
export async function pairedWithRead(
  device: Device,
  seconds: number,
  bytes: number,
  queue: (turn: number) => void,
): Promise<{ ms: number; readGBs: number; ofRead: number }> {
  const times: number[] = [];
  const rates: number[] = [];
  const ratios: number[] = [];
  const deadline = performance.now() + seconds * 1000;
  for (let round = 0; round < 3 || performance.now() < deadline; round++) {
    const before = await readRate(device, 256 << 20);
    const ms = await deviceMs(device, seconds / 16, queue);
    const rate = (before + (await readRate(device, 256 << 20))) / 2;
    times.push(ms);
    rates.push(rate);
    ratios.push(bytes / ms / 1e6 / rate);
  }
  return { ms: median(times), readGBs: median(rates), ofRead: median(ratios) };
}

/**
 * Median milliseconds of what `queue` queues, by the device's clock: `queue` is called in turn with 0,
 * 1, 2, ... until `seconds` have passed, after two warm-ups.
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
