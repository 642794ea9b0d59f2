/** An engine with a block manager of its own: pages by a list, steps by page lists. */
import { appendPages } from "../../src/cache/append-pages.ts";
import type { PageListLevel } from "../../src/cache/page-list-options.ts";
import { PageLists } from "../../src/cache/page-lists.ts";
import type { Device } from "../../src/device/device.ts";
import type { Batch } from "../../src/kv/batch.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { type Case, replayedLengths } from "./cases.ts";
import { concatenate, indptrOf, poisoned } from "./numbers.ts";
import type { Random } from "./random.ts";
import { type Families, type HostRequest, Rig } from "./rig.ts";

/** A request: its pages, and what they hold on the host. */
export interface EngineRequest {
  pages: number[];
  k: Float64Array;
  v: Float64Array;
  /** Where its keys stand; empty where that is at their places. */
  positions: number[];
}

/** How a step hands its lists over. */
export const forms = ["lists", "64-bit lists", "tensors", "all in tensors", "table"] as const;

/** The caller's pages in the case's order, with the rig that checks steps over them. */
export class Engine implements Disposable {
  readonly rig: Rig;
  readonly c: Case;
  readonly lists: PageLists;
  readonly layout: "NHD" | "HND";
  readonly k: Tensor;
  readonly v: Tensor;
  /** [pages, pageSize], where the case's keys have positions. */
  readonly keyPositions: Tensor | undefined;
  readonly #free: number[];
  readonly #random: Random;
  /** What must live until the step is over. */
  #owned: Tensor[] = [];

  constructor(
    readonly device: Device,
    wanted: Case,
    options: { pages: number; families?: Families | undefined; graph?: boolean },
    random: Random,
  ) {
    const sizes = { maxBatch: 8, maxQueryTokens: 400, maxColumns: 64 };
    const over = options.graph ? { graph: sizes } : {};
    this.rig = new Rig(device, wanted, over, options.families);
    const { c } = this.rig;
    this.c = c;
    this.#random = random;
    const { pageSize, kvHeads, kvDtype } = c;
    const pageCount = options.pages;
    this.#free = Array.from({ length: pageCount }, (_, page) => (7 * page) % pageCount);
    if (new Set(this.#free).size < pageCount) this.#free = [...this.#free.keys()];
    this.layout = c.storage === "HND" ? "HND" : "NHD";
    const make = (dim: number) =>
      this.layout === "HND"
        ? poisoned(device, [pageCount, kvHeads, pageSize, dim], kvDtype)
        : poisoned(device, [pageCount, pageSize, kvHeads, dim], kvDtype);
    this.k = make(c.headDim);
    this.v = c.latent ? this.k.slice(3, 0, c.valueDim) : make(c.valueDim);
    if (c.keyPositions) this.keyPositions = Tensor.zeros(device, [pageCount, pageSize], "i32");
    const tokens = c.kvLengths.reduce((sum, length) => sum + length, 0);
    this.lists = PageLists.create(device, {
      pageSize,
      pageCount,
      maxBatch: Math.max(sizes.maxBatch, c.kvLengths.length),
      maxQueryTokens: Math.max(sizes.maxQueryTokens, tokens),
      maxEntries: Math.max(4, c.kvLengths.length) * pageCount,
    });
  }

  create(): EngineRequest {
    return { pages: [], k: new Float64Array(0), v: new Float64Array(0), positions: [] };
  }

  length({ k }: EngineRequest): number {
    return k.length / (this.c.kvHeads * this.c.headDim);
  }

  /** A copy that shares the request's full pages. */
  fork(request: EngineRequest): EngineRequest {
    const full = Math.floor(this.length(request) / this.c.pageSize);
    const tokens = full * this.c.pageSize * this.c.kvHeads;
    return {
      pages: request.pages.slice(0, full),
      k: request.k.slice(0, tokens * this.c.headDim),
      v: request.v.slice(0, tokens * this.c.valueDim),
      positions: request.positions.slice(0, full * this.c.pageSize),
    };
  }

  /** Positions around the places of the requests' new tokens, where the case has such. */
  #place(requests: readonly EngineRequest[], counts: readonly number[]): number[] | undefined {
    if (!this.c.keyPositions) return undefined;
    return requests.flatMap((request, i) => {
      const own = Array.from({ length: counts[i] }, (_, token) =>
        Math.max(0, this.length(request) + token + this.#random.integer(-4, 4)),
      );
      request.positions.push(...own);
      return own;
    });
  }

  /** Gives the requests pages for so many new tokens. */
  allot(requests: readonly EngineRequest[], counts: readonly number[]): void {
    for (const [i, request] of requests.entries())
      while (request.pages.length * this.c.pageSize < this.length(request) + counts[i])
        request.pages.push(this.#free.pop()!);
  }

  /** Lists of rows of pages in one of the forms; `spare` pages stand beyond what indptr says. */
  level(
    queryIndptr: number[],
    rows: readonly (readonly number[])[],
    kvLengths: number[],
    form: (typeof forms)[number],
  ): PageListLevel {
    const indptr = indptrOf(rows.map(({ length }) => length));
    const random = this.#random;
    const spare = random.chance(0.5) ? [99_999] : [];
    const indices = [...rows.flat(), ...(form === "lists" ? [] : spare)];
    const up = (values: number[], shape = [values.length]) => {
      const tensor = Tensor.from(this.device, values, shape, random.pick(["i32", "i64"]));
      this.#owned.push(tensor);
      return tensor;
    };
    const { pageSize } = this.c;
    const isWhole = rows.every(({ length }, r) => Math.ceil(kvLengths[r] / pageSize) === length);
    const last = kvLengths.map((length) => (length === 0 ? 0 : ((length - 1) % pageSize) + 1));
    const lengths =
      isWhole && random.chance(0.5)
        ? { lastPageLength: last }
        : { kvLengths, lastPageLength: null };
    switch (form) {
      case "lists":
        return { queryIndptr, indptr, indices, ...lengths };
      case "64-bit lists": {
        const long = BigInt64Array.from(rows.flat().map(BigInt));
        return { queryIndptr: Int32Array.from(queryIndptr), indptr, indices: long, ...lengths };
      }
      case "tensors":
        return { queryIndptr, indptr, indices: up(indices), ...lengths };
      case "all in tensors":
        return {
          queryIndptr: up(queryIndptr),
          indptr: up(indptr),
          indices: up(indices),
          kvLengths: up(kvLengths),
        };
      case "table": {
        const columns = Math.max(1, ...rows.map(({ length }) => length));
        const table = rows.flatMap((pages) =>
          Array.from({ length: columns }, (_, column) => pages[column] ?? -5),
        );
        // Rows to spare, and sometimes the first columns of a wider table.
        const spareRows = random.integer(0, 2);
        const filled = [...table, ...new Array<number>(spareRows * columns).fill(-5)];
        const whole = up(filled, [rows.length + spareRows, columns]);
        const wide = random.chance(0.5) ? whole : this.#widened(whole);
        return { queryIndptr, indices: wide, kvLengths };
      }
    }
  }

  /** The same numbers as columns of a tensor that has more of them. */
  #widened(table: Tensor): Tensor {
    const [rows, columns] = table.shape;
    const wide = Tensor.zeros(this.device, [rows, columns + 3], table.dtype);
    this.#owned.push(wide);
    const view = wide.slice(1, 1, columns + 1);
    view.copyFrom(table);
    return view;
  }

  /** New rows of the requests: on the host now, on the device when they are appended. */
  newRows(requests: readonly EngineRequest[], counts: readonly number[], needles: Float64Array[]) {
    const { c, rig } = this;
    const k = counts.map((count, i) => rig.rows(count, c.headDim, needles[i]));
    const v = k.map((keys, i) => rig.values(counts[i], keys));
    for (const [i, request] of requests.entries()) {
      request.k = concatenate([request.k, k[i]]);
      request.v = concatenate([request.v, v[i]]);
    }
    const keys = rig.upload(concatenate(k), "f32", c.kvHeads, c.headDim);
    const values = rig.upload(concatenate(v), "f32", c.kvHeads, c.valueDim);
    this.#owned.push(keys, values);
    return { keys, values };
  }

  append(
    batch: Batch,
    { keys, values }: { keys: Tensor; values: Tensor },
    positions?: readonly number[],
  ): void {
    const planes = [{ rows: keys, pages: this.k }];
    if (!this.c.latent) planes.push({ rows: values, pages: this.v });
    const { keyPositions } = this;
    const newPositions =
      positions && Tensor.from(this.device, positions, [positions.length], "i32");
    if (newPositions !== undefined) this.#owned.push(newPositions);
    appendPages({ planes, batch, layout: this.layout, keyPositions, newPositions });
  }

  /**
   * Allots, appends and makes the batch of a step: of requests that are forks of `prefix`, the
   * step names its pages once.
   */
  grow(
    requests: readonly EngineRequest[],
    counts: readonly number[],
    needles: Float64Array[],
    form: (typeof forms)[number],
    over: { share?: boolean; prefix?: EngineRequest; padTo?: number | undefined } = {},
  ): Batch {
    this.allot(requests, counts);
    const { prefix = this.create(), padTo } = over;
    const head = this.length(prefix);
    const kvLengths = requests.map((request, i) => this.length(request) + counts[i] - head);
    const rows = requests.map(({ pages }) => pages.slice(prefix.pages.length));
    const queryIndptr = indptrOf(counts);
    const own = this.level(queryIndptr, rows, kvLengths, form);
    const all = [0, queryIndptr.at(-1)!];
    const shared = head === 0 ? undefined : [this.level(all, [prefix.pages], [head], form)];
    const positions = this.#place(requests, counts);
    const placed = positions && { positions, keyPositions: true };
    const share = over.share ? { share: () => true } : {};
    const batch = this.lists.step({ ...own, ...placed, ...share, padTo, shared });
    this.append(batch, this.newRows(requests, counts, needles), positions);
    return batch;
  }

  /**
   * Builds the case's batch, runs it and checks it; one more, if the first was captured. With
   * `prefix` tokens that requests share, whose pages each step names once.
   */
  run(options: { prefix?: number; padTo?: number | undefined } = {}): Uint8Array {
    const { c, rig } = this;
    const { prefix = 0, padTo } = options;
    const parent = this.create();
    if (prefix > 0) this.grow([parent], [prefix], [], this.#random.pick(forms));
    const head = this.fork(parent);
    const requests = c.kvLengths.map(() => this.fork(parent));
    const queriesOf = (counts: number[]) => counts.map((count) => rig.queries(count));
    const grow = (counts: number[], needles: Float64Array[], padded?: number) => {
      const over = { prefix: head, padTo: padded };
      return this.grow(requests, counts, needles, this.#random.pick(forms), over);
    };
    const step = (counts: number[], queries: Float64Array[]) =>
      this.check(grow(counts, queries, padTo), requests, queries);
    const queries = queriesOf(c.queryLengths);
    const before = c.kvLengths.map((length, i) => length - this.length(head) - c.queryLengths[i]);
    grow(before, queries);
    const bytes = step(c.queryLengths, queries);
    if (c.graph === undefined) return bytes;
    return step(replayedLengths(c), queriesOf(replayedLengths(c)));
  }

  /** The requests as the rig checks them. */
  hosts(requests: readonly EngineRequest[], queries: Float64Array[]): HostRequest[] {
    const { pageSize } = this.c;
    return requests.map((request, i) => {
      const places = Int32Array.from(
        { length: this.length(request) },
        (_, key) => request.pages[Math.floor(key / pageSize)] * pageSize + (key % pageSize),
      );
      const host = { q: queries[i], k: request.k, v: request.v, places };
      if (!this.c.keyPositions) return host;
      const { positions: keyPositions } = request;
      const first = keyPositions.length - host.q.length / (this.c.queryHeads * this.c.headDim);
      return { ...host, keyPositions, queryPositions: keyPositions.slice(first) };
    });
  }

  /** Runs the batch and checks it. */
  check(batch: Batch, requests: readonly EngineRequest[], queries: Float64Array[]): Uint8Array {
    const { k, v, layout, keyPositions } = this;
    const hosts = this.hosts(requests, queries);
    const bytes = this.rig.check(batch, hosts, { k, v, layout, keyPositions });
    this.over();
    return bytes;
  }

  /** Frees what the step needed. */
  over(): void {
    for (const tensor of this.#owned) tensor[Symbol.dispose]();
    this.#owned = [];
  }

  [Symbol.dispose](): void {
    this.over();
    this.rig[Symbol.dispose]();
    this.lists[Symbol.dispose]();
    this.k[Symbol.dispose]();
    if (!this.c.latent) this.v[Symbol.dispose]();
    this.keyPositions?.[Symbol.dispose]();
  }
}
