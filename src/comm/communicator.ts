import { Device } from "../device/device.ts";
import { Owner } from "../device/owner.ts";
import { requireStream, type Stream } from "../device/stream.ts";
import { CommError, DeviceError, type FlashbunError, OptionError } from "../errors.ts";
import { cString, out, valueOf } from "../ffi/foreign.ts";
import { native } from "../ffi/library.ts";
import { check, failureOf, Status } from "../ffi/status.ts";
import type { CommHandle } from "../ffi/symbols.ts";
import { requireInteger } from "../require.ts";
import { dtypeCode } from "../tensor/dtype.ts";
import { requireTensor, Tensor } from "../tensor/tensor.ts";
import { type CommLibrary, openLibrary, requireSame, usualTimeoutMs } from "./library.ts";
import type { Ranks } from "./ranks.ts";

/** How ranks meet. */
export interface CommunicatorOptions {
  readonly ranks: Ranks;
  /**
   * Most milliseconds that one rank waits for another. Default 60,000, or what the environment's
   * FLASHBUN_COMM_SECONDS says.
   */
  readonly timeoutMs?: number;
}

/** What is sent and what is received in one exchange. */
export interface Exchange {
  readonly send?: { readonly tensor: Tensor; readonly to: number };
  readonly receive?: { readonly tensor: Tensor; readonly from: number };
}

const operations = {
  sum: 0,
  min: 1,
  allGather: 2,
  reduceScatter: 3,
  broadcast: 4,
  exchange: 5,
  barrier: 6,
} as const;

/** Milliseconds between two looks at NCCL's state. */
const pollMs = 100;
const commOut = out<CommHandle>();
const crossing = ["f32", "f16", "bf16", "i32", "u8"];

/**
 * Processes, one for each device, that exchange tensors: over NCCL on GPUs, over MPI on CPUs.
 * Operations are queued on streams in the same order by all ranks, and may be captured in graphs.
 * Tensors are dense, of f32, f16, bf16, i32 or u8; u8 and i32 are not to be summed beyond their
 * range.
 */
export class Communicator extends Owner {
  readonly rank: number;
  readonly ranks: number;
  readonly #marker: Tensor;

  private constructor(
    readonly device: Device,
    readonly library: CommLibrary,
    ranks: Ranks,
    /** Most milliseconds that one rank waits for another. */
    readonly timeoutMs: number,
    private readonly handle: CommHandle,
  ) {
    super(`rank ${ranks.rank} of ${ranks.ranks}`);
    this.rank = ranks.rank;
    this.ranks = ranks.ranks;
    this.#marker = Tensor.zeros(device, [1], "i32", "barrier");
  }

  /**
   * Meets the other ranks; each of them calls it. Errors: CommError for a library that is missing
   * and for ranks that do not come in time.
   */
  static async open(device: Device, options: CommunicatorOptions): Promise<Communicator> {
    const { ranks, timeoutMs = usualTimeoutMs() } = options;
    requireInteger("timeoutMs", timeoutMs, 1, 2 ** 31 - 1);
    const library = openLibrary(device.kind === "cpu" ? "MPI" : "NCCL", timeoutMs);
    if (device.kind === "cpu") requireSame(ranks, library);
    const id = device.kind === "cpu" ? null : await idOf(ranks, timeoutMs);
    const { rank, ranks: count } = ranks;
    const { handle } = device;
    check(native().fb_comm_create(handle, count, rank, id, timeoutMs, commOut), "communicator");
    const made = new Communicator(device, library, ranks, timeoutMs, valueOf(commOut));
    try {
      await made.#met();
    } catch (error) {
      made[Symbol.dispose]();
      throw error;
    }
    return made;
  }

  /** Queues the sum over ranks, or the minimum, of each element, in place. */
  allReduce(x: Tensor, how: "sum" | "min" = "sum", stream?: Stream): void {
    this.#requireDense("x", x);
    this.#queue(operations[how], x, x.elements, x, x, stream);
  }

  /** Queues what all ranks have, one rank's after the other's: `into` is [ranks, ...x.shape]. */
  allGather(x: Tensor, into: Tensor, stream?: Stream): void {
    this.#requireDense("x", x);
    this.#requireDense("into", into, x, this.ranks * x.elements);
    this.#queue(operations.allGather, x, x.elements, x, into, stream);
  }

  /** Queues the sum over ranks of x [ranks, ...], of which each rank gets its part. */
  reduceScatter(x: Tensor, into: Tensor, stream?: Stream): void {
    this.#requireDense("into", into);
    this.#requireDense("x", x, into, this.ranks * into.elements);
    this.#queue(operations.reduceScatter, into, into.elements, x, into, stream);
  }

  /** Queues the copy of what rank `from` has to all others, in place. */
  broadcast(x: Tensor, from = 0, stream?: Stream): void {
    this.#requireDense("x", x);
    this.#requirePeer("from", from);
    this.#queue(operations.broadcast, x, x.elements, x, x, stream, -1, from);
  }

  /** Queues a send, a receive, or both at once; tensors of one dtype and count. */
  exchange({ send, receive }: Exchange, stream?: Stream): void {
    const one = send?.tensor ?? receive?.tensor;
    this.#requireDense("send or receive", one);
    if (send !== undefined) this.#requirePeer("to", send.to);
    if (receive !== undefined) {
      this.#requireDense("receive", receive.tensor, one, one.elements);
      this.#requirePeer("from", receive.from);
    }
    const [source, target] = [send?.tensor, receive?.tensor];
    const [to, from] = [send?.to ?? -1, receive?.from ?? -1];
    this.#queue(operations.exchange, one, one.elements, source, target, stream, to, from);
  }

  /** Queues a wait for all ranks to come as far as this. */
  barrier(stream?: Stream): void {
    this.#queue(operations.barrier, this.#marker, 1, this.#marker, this.#marker, stream);
  }

  /** As stream.done(), by {@link Communicator.watch}. Errors: CommError, the device's failure. */
  async done(stream: Stream = this.device.stream): Promise<void> {
    await this.watch(stream.done());
  }

  /**
   * Waits for what the device has to do with other ranks, and gives up when they fail or do not
   * come in time; then nothing works any more. Errors: CommError, what `work` rejects with.
   */
  async watch<T>(work: Promise<T>): Promise<T> {
    if (this.device.kind === "cpu") return await this.#watchOnCpu(work);
    let timer: Timer | undefined;
    const late = performance.now() + this.timeoutMs;
    const watched = new Promise<never>((_, reject) => {
      timer = setInterval(() => {
        const failure = this.#failure() ?? (performance.now() > late ? this.#late() : undefined);
        if (failure === undefined) return;
        this.abort();
        reject(failure);
      }, pollMs);
    });
    try {
      return await Promise.race([work, watched]);
    } finally {
      clearInterval(timer);
    }
  }

  /**
   * Compares some bytes, as of a plan, between ranks. Errors: CommError that names the ranks whose
   * bytes are others than this one's.
   */
  async requireEqual(what: string, bytes: Uint8Array): Promise<void> {
    const own = new Int32Array(new BigUint64Array([Bun.hash.wyhash(bytes)]).buffer);
    using mine = Tensor.fromBits(this.device, own, [2], "i32", "hash");
    using all = Tensor.empty(this.device, [this.ranks, 2], "i32", "hashes");
    this.allGather(mine, all);
    await this.done();
    const hashes = all.toTypedArray() as Int32Array;
    const others: number[] = [];
    for (let rank = 0; rank < this.ranks; rank++)
      if (hashes[2 * rank] !== own[0] || hashes[2 * rank + 1] !== own[1]) others.push(rank);
    if (others.length === 0) return;
    const named = `rank${others.length > 1 ? "s" : ""} ${others.join(", ")}`;
    throw new CommError(
      `${what} of ${named} differs from that of rank ${this.rank}. ` +
        "Fix: start all ranks with the same version, model and options.",
    );
  }

  /** @internal What a step failed by: a CommError where it was another rank. */
  reasonOf(cause: unknown): unknown {
    return cause instanceof DeviceError && cause.status === Status.ranks ? lost(cause) : cause;
  }

  /** Gives up what is queued: the other ranks end by their time-out. */
  abort(): void {
    if (!this.disposed) native().fb_comm_abort(this.handle);
  }

  protected override release(): void {
    this.#marker[Symbol.dispose]();
    if (!this.device.disposed) native().fb_comm_free(this.handle);
  }

  async #met(): Promise<void> {
    const late = performance.now() + this.timeoutMs;
    while (true) {
      const status = native().fb_comm_state(this.handle);
      if (status === Status.ok) break;
      if (status !== Status.notReady) throw this.#failure()!;
      if (performance.now() > late) {
        this.abort();
        throw this.#late();
      }
      await Bun.sleep(5);
    }
    this.barrier();
    await this.done();
  }

  async #watchOnCpu<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (cause) {
      throw this.reasonOf(cause);
    }
  }

  #late(): CommError {
    return new CommError(
      `another rank did not come within ${this.timeoutMs / 1000} s. ` +
        `Fix: start all ${this.ranks} ranks, and look at what the others say.`,
    );
  }

  /** What failed; undefined for a communicator that works. */
  #failure(): CommError | undefined {
    const status = native().fb_comm_state(this.handle);
    if (status === Status.ok || status === Status.notReady) return undefined;
    return lost(failureOf(status, this.label));
  }

  #queue(
    operation: number,
    { dtype }: Tensor,
    count: number,
    source: Tensor | undefined,
    target: Tensor | undefined,
    stream: Stream = this.device.stream,
    to = -1,
    from = -1,
  ): void {
    this.guard();
    requireStream(stream, this.device);
    const { device, handle } = this;
    if (device.capturing) {
      device.needOnReplay(this);
      for (const tensor of [source, target]) if (tensor !== undefined) device.needOnReplay(tensor);
    }
    const [read, written] = [source?.address ?? 0, target?.address ?? 0];
    const what = [operation, dtypeCode(dtype), to, from, count, read, written] as const;
    const status = native().fb_comm_queue(handle, stream.handle, ...what);
    if (status === Status.ok) return;
    const cause = failureOf(status, this.label);
    throw status === Status.ranks ? lost(cause) : cause;
  }

  #requirePeer(option: string, rank: number): void {
    requireInteger(option, rank, 0, this.ranks - 1);
  }

  /** Of `like`'s dtype and of so many elements, where they are given. */
  #requireDense(
    option: string,
    x: Tensor | undefined,
    like?: Tensor,
    elements?: number,
  ): asserts x is Tensor {
    requireTensor(option, x);
    x.requireOn(this.device, option);
    const isSame = like === undefined || (x.dtype === like.dtype && x.elements === elements);
    if (x.contiguous && crossing.includes(x.dtype) && isSame) return;
    const wanted =
      like === undefined ? crossing.join(", ") : `${elements} elements of ${like.dtype}`;
    throw new OptionError(option, x.label, `a dense tensor of ${wanted}`, "pass one like this.");
  }
}

function lost(cause: FlashbunError): CommError {
  return new CommError(`${cause.message}. Fix: look at what the other ranks say.`, { cause });
}

/** Communicators of this process that met at an address: each has a port of its own. */
let meetings = 0;

function portBehind(address: string, count: number): string {
  const colon = address.lastIndexOf(":");
  return `${address.slice(0, colon)}:${Number(address.slice(colon + 1)) + count}`;
}

/** NCCL's id: all make the same of an address; else rank 0 makes one, and MPI hands it out. */
async function idOf(ranks: Ranks, timeoutMs: number): Promise<Uint8Array> {
  const id = new Uint8Array(new ArrayBuffer(128));
  const { address } = ranks;
  if (address !== undefined || ranks.ranks === 1) {
    const host = address === undefined ? null : cString(portBehind(address, meetings++));
    check(native().fb_comm_identify(host, id), "NCCL's id");
    return id;
  }
  await using cpu = await Device.open("cpu", { threads: 1 });
  using mpi = await Communicator.open(cpu, { ranks, timeoutMs });
  if (ranks.rank === 0) check(native().fb_comm_identify(null, id), "NCCL's id");
  using tensor = Tensor.fromBits(cpu, id, [id.length], "u8", "id");
  mpi.broadcast(tensor);
  await mpi.done();
  return tensor.toBytes();
}
