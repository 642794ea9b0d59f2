import { Communicator } from "../comm/communicator.ts";
import type { Ranks } from "../comm/ranks.ts";
import { Device } from "../device/device.ts";
import type { Memory } from "../device/memory.ts";
import { PinnedRing } from "../device/ring.ts";
import type { Stream } from "../device/stream.ts";
import type { LogitParts } from "../models/logit-parts.ts";
import type { ServeRequest } from "../serve/request.ts";
import type { Step } from "../serve/step.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Proposal } from "./step-drafts.ts";

/** What rank 0 tells the others before a step: who came, who left, and its time. */
export interface Turn {
  /** Of rank 0, in seconds. */
  readonly now: number;
  readonly added: readonly Added[];
  /** Ids of requests that were ended from outside. */
  readonly left: readonly number[];
  /** Guesses at tokens, which the step verifies. */
  readonly drafts?: readonly Proposal[];
  /** Whether tokens of the step are told before the next turn, as drafts want it. */
  readonly waits?: boolean;
  /** No turn follows. */
  readonly ends?: boolean;
}

/** A request, what of the logits it needs, and when it came. */
export interface Added {
  readonly request: ServeRequest;
  readonly parts: LogitParts;
  readonly at: number;
}

/** Bytes of a turn that one broadcast brings; what is longer comes in a second one. */
const blockBytes = 512;
const lengthBytes = 4;

/**
 * Turns from rank 0 to the others. On CPUs they go in line with the steps; on GPUs they go apart
 * from them, so that the others know a step while the one before runs.
 */
export class Turns implements AsyncDisposable {
  readonly #comm: Communicator;
  readonly #stream: Stream;
  readonly #block: Tensor;
  readonly #ring: PinnedRing;
  readonly #owned: AsyncDisposableStack;
  #rest: Tensor | undefined;
  #host: Memory | undefined;

  private constructor(comm: Communicator, stream: Stream, owned: AsyncDisposableStack) {
    const { device } = comm;
    this.#comm = comm;
    this.#stream = stream;
    this.#owned = owned;
    // Not zeros: the device's own stream would write them, whenever it comes to that.
    this.#block = owned.use(Tensor.empty(device, [blockBytes], "u8", "turn"));
    this.#ring = owned.use(new PinnedRing(device, "turns"));
  }

  /** Errors: CommError. */
  static async open(steps: Communicator, ranks: Ranks): Promise<Turns> {
    await using made = new AsyncDisposableStack();
    const { device, timeoutMs } = steps;
    if (device.kind === "cpu") return new Turns(steps, device.stream, made.move());
    const byMpi = ranks.address === undefined && ranks.ranks > 1;
    const other = byMpi ? made.use(await Device.open("cpu", { threads: 1 })) : device;
    const stream = byMpi ? other.stream : made.use(device.createStream("turns"));
    const comm = made.use(await Communicator.open(other, { ranks, timeoutMs }));
    return new Turns(comm, stream, made.move());
  }

  /** Rank 0 queues a turn. */
  send(turn: Turn): void {
    const json = { ...turn, added: turn.added.map(asJson) };
    const bytes = new TextEncoder().encode(JSON.stringify(json));
    const { i32 } = this.#ring.take(blockBytes / 4);
    i32[0] = bytes.length;
    const first = bytes.subarray(0, blockBytes - lengthBytes);
    new Uint8Array(i32.buffer, i32.byteOffset + lengthBytes).set(first);
    this.#ring.upload(this.#stream, this.#block.address, blockBytes / 4);
    this.#comm.broadcast(this.#block, 0, this.#stream);
    if (first.length === bytes.length) return;
    const rest = this.#room(bytes.length - first.length);
    const slot = this.#ring.take(rest.elements / 4);
    new Uint8Array(slot.i32.buffer, slot.i32.byteOffset).set(bytes.subarray(first.length));
    this.#ring.upload(this.#stream, rest.address, rest.elements / 4);
    this.#comm.broadcast(rest, 0, this.#stream);
  }

  /** The other ranks wait for the next turn. Errors: CommError. */
  async receive(): Promise<Turn> {
    this.#comm.broadcast(this.#block, 0, this.#stream);
    const first = await this.#read(this.#block);
    const length = new DataView(first.buffer).getInt32(0, true);
    const bytes = new Uint8Array(length);
    bytes.set(first.subarray(lengthBytes, Math.min(lengthBytes + length, blockBytes)));
    if (length > blockBytes - lengthBytes) {
      const rest = this.#room(length - (blockBytes - lengthBytes));
      this.#comm.broadcast(rest, 0, this.#stream);
      const left = length - (blockBytes - lengthBytes);
      bytes.set((await this.#read(rest)).subarray(0, left), blockBytes - lengthBytes);
    }
    const turn = JSON.parse(new TextDecoder().decode(bytes)) as Turn & { added: AddedJson[] };
    return { ...turn, added: turn.added.map(fromJson) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#rest?.[Symbol.dispose]();
    this.#host?.[Symbol.dispose]();
    await this.#owned[Symbol.asyncDispose]();
  }

  /** Device memory for so many bytes: all ranks make it alike. */
  #room(bytes: number): Tensor {
    const size = 2 ** Math.ceil(Math.log2(Math.max(bytes, 4096)));
    if (this.#rest === undefined || this.#rest.elements < size) {
      this.#rest?.[Symbol.dispose]();
      this.#rest = Tensor.empty(this.#comm.device, [size], "u8", "long turn");
    }
    return this.#rest.slice(0, 0, size);
  }

  async #read({ address, elements }: Tensor): Promise<Uint8Array<ArrayBuffer>> {
    if (this.#host === undefined || this.#host.byteLength < elements) {
      this.#host?.[Symbol.dispose]();
      this.#host = this.#comm.device.alloc(elements, "turns", true);
    }
    this.#stream.copy(this.#host.address, address, elements);
    await this.#comm.done(this.#stream);
    return new Uint8Array(this.#host.hostBytes(), 0, elements);
  }
}

interface AddedJson extends Omit<Added, "request"> {
  readonly request: Omit<ServeRequest, "prompt"> & { readonly prompt: number[] };
}

function asJson({ request, ...rest }: Added): AddedJson {
  return { ...rest, request: { ...request, prompt: [...request.prompt] } };
}

function fromJson({ request, ...rest }: AddedJson): Added {
  return { ...rest, request: { ...request, prompt: Int32Array.from(request.prompt) } };
}

/** What of a step must be the same on all ranks: whose tokens, where they stand and are written. */
export function planBytes({ batch, jobs, sequences }: Step): Uint8Array {
  const { tokenCount, paddedTokens, positions } = batch;
  const counts = jobs.flatMap(({ id, computed, scheduled }) => [id, computed, scheduled]);
  // Not the slots of tokens: where ranks share the keys of a request, each has those of its own.
  const pages = sequences.flatMap((each) =>
    each.pool.groups.flatMap((_, group) => [...each.pages(group)]),
  );
  const places = positions.subarray(0, tokenCount);
  const numbers = Int32Array.from([tokenCount, paddedTokens, ...counts, ...places, ...pages]);
  return new Uint8Array(numbers.buffer);
}

/** Whether ranks compare each step's plan, which waits for all of them. */
export const checksPlans = process.env["FLASHBUN_SYNC"] === "1";
