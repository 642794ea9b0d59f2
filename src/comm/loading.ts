import { Device } from "../device/device.ts";
import { after, type Stream } from "../device/stream.ts";
import { Tensor } from "../tensor/tensor.ts";
import { Communicator } from "./communicator.ts";
import type { Ranks } from "./ranks.ts";

/**
 * Ranks that load, each as long as it takes: one tells the others now and then that it still does,
 * so that none waits longer for another than its time-out says. Meanwhile they exchange nothing
 * else.
 */
export class Loading implements AsyncDisposable {
  readonly #comm: Communicator;
  readonly #stream: Stream;
  readonly #owned: AsyncDisposableStack;
  /** 0, which stays the smallest of all ranks' numbers. */
  readonly #loads: Tensor;
  readonly #everyMs: number;
  readonly #timer: Timer;
  #last = performance.now();
  #waits = false;
  /** Whether what was told last was not waited for yet. */
  #told = false;

  private constructor(
    comm: Communicator,
    stream: Stream,
    loads: Tensor,
    owned: AsyncDisposableStack,
  ) {
    this.#comm = comm;
    this.#stream = stream;
    this.#loads = loads;
    this.#owned = owned;
    this.#everyMs = comm.timeoutMs / 4;
    this.#timer = setInterval(() => this.#tellOrStop(), this.#everyMs);
  }

  /** All ranks begin at the same place. Errors: CommError. */
  static async open(steps: Communicator, ranks: Ranks): Promise<Loading> {
    await using made = new AsyncDisposableStack();
    const { device, timeoutMs } = steps;
    const byNccl = device.kind === "cuda" && (ranks.address !== undefined || ranks.ranks === 1);
    // MPI waits on a thread, and the device's own ones load.
    const own = byNccl ? device : made.use(await Device.open("cpu", { threads: 1 }));
    const comm = byNccl ? steps : made.use(await Communicator.open(own, { ranks, timeoutMs }));
    const stream = byNccl ? made.use(device.createStream("loading")) : own.stream;
    const loads = made.use(Tensor.zeros(own, [1], "i32", "loads"));
    after(stream, own.stream);
    return new Loading(comm, stream, loads, made.move());
  }

  /** Tells the others, where it is time to, that this rank still loads. Errors: CommError. */
  readonly tell = (): void => {
    const now = performance.now();
    // One at a time: whoever loads fast gets no further ahead of the others.
    if (this.#waits || now - this.#last < this.#everyMs || !this.#stream.idle) return;
    this.#last = now;
    this.#told = true;
    this.#comm.allReduce(this.#loads, "min", this.#stream);
  };

  /** The smallest of all ranks' numbers, from 1 on, once each has one. Errors: CommError. */
  async least(count: number): Promise<number> {
    try {
      return await this.#agree(count);
    } catch (cause) {
      throw this.#comm.reasonOf(cause);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    // Where loading failed, what was told may wait for a rank that never comes.
    if (this.#told) this.#comm.abort();
    await this.#stream.done().catch(() => {});
    await this.#owned[Symbol.asyncDispose]();
  }

  async #agree(count: number): Promise<number> {
    const { device } = this.#comm;
    // All ranks exchange equally often: none tells more than its number while it waits.
    this.#waits = true;
    // By itself, as there is one time for all that is queued.
    await this.#comm.done(this.#stream);
    this.#told = false;
    while (true) {
      using least = Tensor.from(device, [count], [1], "i32", "loaded");
      after(this.#stream, device.stream);
      this.#comm.allReduce(least, "min", this.#stream);
      await this.#comm.done(this.#stream);
      const [found] = least.toTypedArray() as Int32Array;
      if (found === 0) continue;
      this.#waits = false;
      this.#last = performance.now();
      return found;
    }
  }

  /** Whoever waits for all ranks, or tells them more, gets the reason why this failed. */
  #tellOrStop(): void {
    try {
      this.tell();
    } catch {
      clearInterval(this.#timer);
    }
  }
}
