import type { Params } from "../ffi/params.ts";
import type { Kernel } from "./kernel.ts";
import type { Stream } from "./stream.ts";

/** What a launch queues. */
export interface Launch {
  readonly stream: Stream;
  /** The kernel's name, or the label of a captured graph that is replayed. */
  readonly name: string;
  /** Items; 1 for a graph. */
  readonly grid: number;
  /** Of a kernel, not of a graph. The next launch may change the parameters. */
  readonly kernel?: Kernel;
  readonly params?: Params;
}

/** Sees the launches of a device, on both sides of the call that queues them. */
export interface LaunchObserver {
  /** Before it is queued. */
  launching?(launch: Launch): void;
  /** After it was queued; not called when that failed. */
  launched?(launch: Launch): void;
}

const nobody: readonly LaunchObserver[] = [];

/** The observers of a device's launches. A launch without an observer allocates nothing. */
export class LaunchObservers {
  #observers = nobody;

  /** Shows the observer every launch until what is returned is disposed. */
  add(observer: LaunchObserver): Disposable {
    this.#observers = [...this.#observers, observer];
    const end = () => {
      const left = this.#observers.filter((other) => other !== observer);
      this.#observers = left.length > 0 ? left : nobody;
    };
    return { [Symbol.dispose]: end };
  }

  /** Before a launch. Returns what {@link launched} takes, undefined without an observer. */
  launching(
    stream: Stream,
    name: string,
    grid: number,
    kernel?: Kernel,
    params?: Params,
  ): Launch | undefined {
    if (this.#observers === nobody) return undefined;
    const launch = { stream, name, grid, kernel, params };
    for (const observer of this.#observers) observer.launching?.(launch);
    return launch;
  }

  /** After it was queued. */
  launched(launch: Launch): void {
    for (const observer of this.#observers) observer.launched?.(launch);
  }
}
