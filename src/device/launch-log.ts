import { writeFileSync } from "node:fs";
import type { Captures } from "./capture.ts";
import type { Launch, LaunchObserver } from "./launch.ts";
import { Event, type Stream } from "./stream.ts";

/** One launch between two events. */
interface TimedLaunch {
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
export class LaunchLog implements LaunchObserver {
  readonly #captures: Captures;
  readonly #sync: boolean;
  readonly #path: string | undefined;
  readonly #origin: Event | undefined;
  readonly #launches: TimedLaunch[] = [];
  #start: Event | undefined;

  private constructor(stream: Stream, captures: Captures, sync: boolean, path: string | undefined) {
    this.#captures = captures;
    this.#sync = sync;
    this.#path = path;
    if (path === undefined) return;
    this.#origin = Event.create(stream.device, "trace origin");
    this.#origin.record(stream);
  }

  /** The log that the environment asks for, or undefined; times count from now, on `stream`. */
  static fromEnvironment(stream: Stream, captures: Captures): LaunchLog | undefined {
    const sync = process.env["FLASHBUN_SYNC"] === "1";
    const path = process.env["FLASHBUN_TRACE"] || undefined;
    return sync || path !== undefined ? new LaunchLog(stream, captures, sync, path) : undefined;
  }

  /** Starts the launch's time. */
  launching({ stream }: Launch): void {
    if (this.#path === undefined || this.#captures.busy) return;
    if (this.#launches.length >= launchesMost) return;
    this.#start = Event.create(stream.device, "trace");
    this.#start.record(stream);
  }

  /** Ends it. Throws the failure of the launch under FLASHBUN_SYNC. */
  launched({ stream, name, grid }: Launch): void {
    if (this.#captures.busy) return;
    if (this.#start !== undefined) {
      const [start, end] = [this.#start, Event.create(stream.device, "trace")];
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
      name,
      ph: "X",
      pid: origin.device.label,
      tid: stream,
      args: { grid },
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
