import type { AttentionOptions } from "../../src/attention/options.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import type { Device } from "../../src/device/device.ts";
import { type Batch, createBatch } from "../../src/kv/batch.ts";
import { raggedLayout } from "../../src/kv/layout.ts";
import type { ReserveOptions } from "../../src/kv/reserve.ts";
import type { PrefixMatch, Sequence } from "../../src/kv/sequence.ts";
import { dtypeBytes, encode } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { runMixed } from "./apart.ts";
import { type Case, queryDimOf, replayedLengths, tailDim } from "./cases.ts";
import { Engine } from "./engine.ts";
import { concatenate, indptrOf, poisoned } from "./numbers.ts";
import { seeded } from "./random.ts";
import { type Families, type HostRequest, Rig } from "./rig.ts";

/** A sequence's rows, and the position of each. */
interface Held {
  k: Float64Array;
  v: Float64Array;
  positions: number[];
}

/** A paged cache over poisoned storage, with a copy on the host of what each sequence holds. */
export class World implements Disposable {
  readonly rig: Rig;
  readonly cache: PagedCache;
  readonly sequences = new Map<Sequence, Held>();
  readonly #storage: Tensor[] = [];

  readonly c: Case;

  constructor(
    readonly device: Device,
    wanted: Case,
    options: {
      pages: number;
      attention?: Partial<AttentionOptions>;
      windowLeft?: number | undefined;
      keyPositions?: boolean | undefined;
      families?: Families | undefined;
    },
  ) {
    this.rig = new Rig(device, wanted, options.attention, options.families);
    const { c } = this.rig;
    // A captured run reads positions where the first step has them.
    const { keyPositions = c.keyPositions && c.graph !== undefined } = options;
    this.c = c;
    const { kvHeads, headDim, valueDim, kvDtype: dtype, pageSize } = c;
    const plane = (name: string, dim: number) => ({ name, heads: kvHeads, dim, dtype });
    const keys = c.latent ? "latent" : "key";
    const planes = [
      plane(keys, c.keyTail ? headDim - tailDim(c) : headDim),
      ...(c.latent ? [] : [plane("value", valueDim)]),
      ...(c.keyTail ? [plane("tail", tailDim(c))] : []),
    ];
    this.cache = PagedCache.create(device, {
      layers: 1,
      kvHeads,
      headDim,
      valueDim,
      dtype,
      pages: options.pages,
      pageSize,
      ...(c.latent || c.keyTail ? { planes } : {}),
      ...(keyPositions ? { keyPositions: true } : {}),
      ...(options.windowLeft === undefined
        ? {}
        : { groups: [{ layers: [0], pages: options.pages, windowLeft: options.windowLeft }] }),
      storage: (_, { dim }) => this.#allocate(options.pages, dim),
    });
  }

  /** A new sequence, empty or starting with the matched tokens of another one. */
  create(prefix?: PrefixMatch, of?: Sequence): Sequence {
    const sequence = this.cache.sequence({ prefix });
    this.sequences.set(sequence, {
      k: new Float64Array(0),
      v: new Float64Array(0),
      positions: [],
    });
    if (prefix === undefined || of === undefined) return sequence;
    this.sequences.set(sequence, { ...this.sequences.get(of)! });
    this.#keep(
      sequence,
      Array.from({ length: prefix.tokens }, (_, token) => token),
    );
    return sequence;
  }

  fork(sequence: Sequence): Sequence {
    const copy = sequence.fork();
    this.sequences.set(copy, { ...this.sequences.get(sequence)! });
    return copy;
  }

  free(sequence: Sequence): void {
    sequence.free();
    this.sequences.delete(sequence);
  }

  truncate(sequence: Sequence, length: number): void {
    sequence.truncate(length);
    this.#keep(
      sequence,
      Array.from({ length }, (_, token) => token),
    );
  }

  /** Keeps the accepted of the last `drafts` tokens. */
  compact(sequence: Sequence, drafts: number, accepted: number[]): void {
    const before = sequence.length - drafts;
    sequence.compact(accepted);
    const head = Array.from({ length: before }, (_, token) => token);
    this.#keep(sequence, [...head, ...accepted.map((index) => before + index)]);
  }

  /** Reserves and appends new tokens, on the device and on the host. */
  grow(
    sequences: Sequence[],
    counts: number[],
    needles: Float64Array[] = [],
    options?: ReserveOptions,
  ): Batch {
    const { c, rig } = this;
    const batch = this.cache.reserve(sequences, counts, options);
    if (!batch.ok) throw batch.error;
    const k = counts.map((count, i) => rig.rows(count, c.headDim, needles[i]));
    const v = k.map((keys, i) => rig.values(counts[i], keys));
    using keys = rig.upload(concatenate(k), "f32", c.kvHeads, c.headDim);
    using values = rig.upload(concatenate(v), "f32", c.kvHeads, c.valueDim);
    const head = c.keyTail ? c.headDim - tailDim(c) : c.headDim;
    const pieces = {
      [c.latent ? "latent" : "key"]: keys.slice(2, 0, head),
      ...(c.latent ? {} : { value: values }),
      ...(c.keyTail ? { tail: keys.slice(2, head, c.headDim) } : {}),
    };
    const given = c.latent || c.keyTail ? { planes: pieces } : { k: keys, v: values };
    this.cache.append({ layer: 0, batch, ...given });
    sequences.forEach((sequence, i) => {
      const held = this.sequences.get(sequence)!;
      held.k = concatenate([held.k, k[i]]);
      held.v = concatenate([held.v, v[i]]);
      const [from, to] = batch.queryIndptr.subarray(i, i + 2);
      held.positions = [...held.positions, ...batch.positions.subarray(from, to)];
    });
    return batch;
  }

  /** The batch's requests on the host. */
  requests(sequences: Sequence[], queries: Float64Array[]): HostRequest[] {
    const { pageSize } = this.c;
    return sequences.map((sequence, i) => {
      const pages = sequence.pages();
      const places = Int32Array.from(
        { length: sequence.length },
        (_, token) => pages[Math.floor(token / pageSize)] * pageSize + (token % pageSize),
      );
      const { k, v, positions } = this.sequences.get(sequence)!;
      const q = queries[i];
      const first = positions.length - q.length / (this.c.queryHeads * queryDimOf(this.c));
      if (positions.every((position, place) => position === place)) return { q, k, v, places };
      const queryPositions = positions.slice(first);
      return { q, k, v, places, queryPositions, keyPositions: positions };
    });
  }

  /** One step: grow, perhaps share prefixes, run, check. Returns the output's bytes. */
  step(
    sequences: Sequence[],
    counts: number[],
    options: { share?: boolean | "perhaps"; padTo?: number } = {},
  ): Uint8Array {
    const { rig } = this;
    const queries = counts.map((count) => rig.queries(count));
    const before = sequences.map(({ length }) => length);
    const given = positionsFor(rig, before, counts);
    const batch = this.grow(sequences, counts, queries, { ...given, padTo: options.padTo });
    const shared = options.share && this.cache.sharePrefixes(batch, sequences, () => true);
    if (options.share === true && !shared) throw new Error("nothing was shared");
    return rig.check(batch, this.requests(sequences, queries), { cache: this.cache });
  }

  /** Builds the case's batch, runs it and checks it; one more, if the first was captured. */
  run(options: ReserveOptions = {}): Uint8Array {
    const { c, rig } = this;
    const sequences = c.kvLengths.map(() => this.create());
    const queries = c.queryLengths.map((count) => rig.queries(count));
    // History comes in two steps, so that pages of the requests interleave.
    const history = c.kvLengths.map((length, i) => length - c.queryLengths[i]);
    const first = history.map((length) => length >> 1);
    this.grow(sequences, first, queries);
    const rest = history.map((length, i) => length - first[i]);
    this.grow(sequences, rest, queries, positionsFor(rig, first, rest));
    const given = positionsFor(rig, history, c.queryLengths);
    const batch = this.grow(sequences, c.queryLengths, queries, { ...given, ...options });
    const bytes = rig.check(batch, this.requests(sequences, queries), { cache: this.cache });
    return c.graph === undefined ? bytes : this.step(sequences, replayedLengths(c), options);
  }

  [Symbol.dispose](): void {
    this.rig[Symbol.dispose]();
    this.cache[Symbol.dispose]();
    for (const tensor of this.#storage) tensor[Symbol.dispose]();
  }

  #keep(sequence: Sequence, tokens: number[]): void {
    const { kvHeads, headDim, valueDim } = this.c;
    const held = this.sequences.get(sequence)!;
    const pick = (x: Float64Array, row: number) =>
      concatenate(tokens.map((token) => x.subarray(token * row, (token + 1) * row)));
    held.k = pick(held.k, kvHeads * headDim);
    held.v = pick(held.v, kvHeads * valueDim);
    // Keys stand at their places until positions are kept.
    const kept = this.cache.keyPositions(0) !== undefined;
    held.positions = tokens.map((token, place) => (kept ? held.positions[token] : place));
  }

  /** [pages, pageSize, heads, dim] in the case's order, poisoned. */
  #allocate(pages: number, dim: number): Tensor {
    const { device, c } = this;
    const { pageSize, kvHeads, kvDtype } = c;
    const make = (shape: number[]) => {
      const tensor = poisoned(device, shape, kvDtype);
      this.#storage.push(tensor);
      return tensor;
    };
    switch (c.storage) {
      case "NHD":
        return make([pages, pageSize, kvHeads, dim]);
      case "HND":
        return make([pages, kvHeads, pageSize, dim]).permute(0, 2, 1, 3);
      case "combined":
        return make([pages, 2, pageSize, kvHeads, dim]).select(1, 1);
      case "strided":
        return make([pages, pageSize + 1, kvHeads + 1, dim + 16])
          .slice(1, 0, pageSize)
          .slice(2, 1, kvHeads + 1)
          .slice(3, 16, dim + 16);
    }
  }
}

/** Builds a case's batch, runs it and checks it. */
export function runCase(device: Device, c: Case, families?: Families): Uint8Array {
  if (c.pageSize === 0) return runRagged(device, c, families);
  if (c.raggedRows) {
    using rig = new Rig(device, c, {}, families);
    return runMixed(rig);
  }
  if (!c.callers) return runPaged(device, c, families);
  using engine = new Engine(device, c, { pages: pagesOf(c), families }, seeded(c.seed));
  return engine.run();
}

/** Pages of a case's requests, and some more. */
function pagesOf(c: Case): number {
  const later = c.graph === undefined ? [] : replayedLengths(c);
  const lengths = c.kvLengths.map((length, i) => length + (later[i] ?? 0));
  return lengths.reduce((sum, length) => sum + Math.ceil(length / c.pageSize), 3);
}

function runPaged(device: Device, c: Case, families?: Families): Uint8Array {
  using world = new World(device, c, { pages: pagesOf(c), families });
  return world.run();
}

/** What a step is reserved with: positions around its tokens' places, if the case has such. */
function positionsFor({ c, random }: Rig, before: number[], counts: number[]): ReserveOptions {
  if (!c.keyPositions) return {};
  const places = before.flatMap((start, i) =>
    Array.from({ length: counts[i] }, (_, token) => start + token),
  );
  return { positions: places.map((place) => Math.max(0, place + random.integer(-4, 4))) };
}

function runRagged(device: Device, wanted: Case, families?: Families): Uint8Array {
  using rig = new Rig(device, wanted, {}, families);
  const { c } = rig;
  const requests: HostRequest[] = [];
  let token = 0;
  for (const [i, keys] of c.kvLengths.entries()) {
    const q = rig.queries(c.queryLengths[i]);
    const places = Int32Array.from({ length: keys }, (_, key) => token + key);
    const k = rig.rows(keys, c.headDim, q);
    const v = rig.values(keys, k);
    const { positions: queryPositions } = positionsFor(
      rig,
      [keys - c.queryLengths[i]],
      [c.queryLengths[i]],
    );
    const { positions: keyPositions } = positionsFor(rig, [0], [keys]);
    requests.push({ q, k, v, places, queryPositions, keyPositions });
    token += keys;
  }
  const { k, v } = raggedTensors(rig, requests);
  const layout = raggedLayout(indptrOf(c.queryLengths), indptrOf(c.kvLengths));
  const { queryLengths, kvLengths, keyPositions } = c;
  const given = (of: "queryPositions" | "keyPositions") =>
    keyPositions ? requests.flatMap((request) => Array.from(request[of]!)) : undefined;
  const positions = given("queryPositions");
  const all = given("keyPositions");
  using placed = all && Tensor.from(device, [...all, 0, 0, 0], [all.length + 3], "i32");
  const batch = createBatch({ queryLengths, kvLengths, layout, positions, keyPositions });
  const bytes = rig.check(batch, requests, { k, v, keyPositions: placed });
  k[Symbol.dispose]();
  v[Symbol.dispose]();
  return bytes;
}

/** All requests' keys and values as ragged tensors, with poison behind the last token. */
export function raggedTensors(rig: Rig, requests: readonly HostRequest[]) {
  const { device, c } = rig;
  const make = (rows: Float64Array, dim: number) => {
    const tokens = rows.length / (c.kvHeads * dim);
    const bytes = new Uint8Array((tokens + 3) * c.kvHeads * dim * dtypeBytes(c.kvDtype)).fill(0xff);
    encode(c.kvDtype, rows, bytes.subarray(0, rows.length * dtypeBytes(c.kvDtype)));
    return Tensor.fromBits(device, bytes, [tokens + 3, c.kvHeads, dim], c.kvDtype);
  };
  const k = make(concatenate(requests.map((r) => r.k)), c.headDim);
  if (c.latent) return { k, v: k.slice(2, 0, c.valueDim) };
  return { k, v: make(concatenate(requests.map((r) => r.v)), c.valueDim) };
}
