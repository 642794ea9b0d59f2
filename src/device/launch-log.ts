import { writeFileSync } from "node:fs";
import type { Device } from "./device.ts";
import type { Event } from "./event.ts";
import type { Stream } from "./stream.ts";

/** One launch between two events. */
interface Launch {
  name: string;
  grid: number;
  stream: string;
  start: Event;
  end: Event;
}

/** Launches that a trace holds at most. */
const launchesMost = 100_000;

/**
 * What FLASHBUN_SYNC and FLASHBUN_TRACE ask of every launch: to wait for it, so that a failure
 * names its kernel, and to time it. Both cost time; neither is on by default.
 */
export class LaunchLog {
  readonly #device: Device;
  readonly #sync: boolean;
  readonly #path: string | undefined;
  readonly #origin: Event | undefined;
  readonly #launches: Launch[] = [];
  #start: Event | undefined;

  private constructor(device: Device, sync: boolean, path: string | undefined) {
    this.#device = device;
    this.#sync = sync;
    this.#path = path;
    if (path === undefined) return;
    this.#origin = device.createEvent("trace origin");
    this.#origin.record(device.stream);
  }

  /** The log that the environment asks for, or undefined. */
  static fromEnvironment(device: Device): LaunchLog | undefined {
    const sync = process.env["FLASHBUN_SYNC"] === "1";
    const path = process.env["FLASHBUN_TRACE"] || undefined;
    return sync || path !== undefined ? new LaunchLog(device, sync, path) : undefined;
  }

  /** Before something is queued. */
  launching(stream: Stream): void {
    if (this.#path === undefined || this.#device.capturing) return;
    if (this.#launches.length >= launchesMost) return;
    this.#start = this.#device.createEvent("trace");
    this.#start.record(stream);
  }

  /** After it was queued. Throws the failure of the launch under FLASHBUN_SYNC. */
  launched(stream: Stream, name: string, grid: number): void {
    if (this.#device.capturing) return;
    if (this.#start !== undefined) {
      const [start, end] = [this.#start, this.#device.createEvent("trace")];
      this.#start = undefined;
      end.record(stream);
      this.#launches.push({ name, grid, stream: stream.label, start, end });
    }
    if (this.#sync) stream.wait();
  }

  /** Writes the trace, for chrome://tracing and Perfetto, and frees its events. */
  close(): void {
    if (this.#path === undefined) return;
    const origin = this.#origin!;
    const reached = this.#launches.filter(({ end }) => end.reached);
    const traceEvents = reached.map(({ name, grid, stream, start, end }) => ({
      ...{ name, ph: "X", pid: this.#device.label, tid: stream, args: { grid } },
      ts: origin.elapsedMs(start) * 1000,
      dur: start.elapsedMs(end) * 1000,
    }));
    writeFileSync(this.#path, JSON.stringify({ traceEvents }));
    for (const { start, end } of this.#launches) {
      start[Symbol.dispose]();
      end[Symbol.dispose]();
    }
    origin[Symbol.dispose]();
  }
}
