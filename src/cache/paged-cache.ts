import { requireDevice } from "../device/context.ts";
import type { Device } from "../device/device.ts";
import { Owner } from "../device/owner.ts";
import { requireStream, type Stream } from "../device/stream.ts";
import { OptionError, PlanError } from "../errors.ts";
import { type Batch, type OutOfPages, requireBatch } from "../kv/batch.ts";
import type { ContextPart } from "../kv/context-part.ts";
import { PrefixIndex } from "../kv/prefix-index.ts";
import type { ReserveOptions } from "../kv/reserve.ts";
import { type PrefixMatch, type Sequence, SequencePool } from "../kv/sequence.ts";
import { sharePrefixes, type WorthSharing } from "../kv/share-prefixes.ts";
import { requireInteger } from "../require.ts";
import { counted } from "../shown.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import { scaleStrides } from "../tensor/scale.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Appender } from "./append.ts";
import { KeyPositions } from "./key-positions.ts";
import {
  checkCacheOptions,
  groupsOf,
  type PagedCacheOptions,
  type PlaneOptions,
  planesOf,
} from "./options.ts";
import { CopyTable } from "./page.ts";
import { type AppendTensors, StepAppends } from "./step-appends.ts";
import { refuseCapture, StepUpload } from "./step-upload.ts";
import { layerStorage } from "./storage.ts";

/** What a cache takes of memory, in bytes. */
export interface CacheMemory {
  /** Keys and values in storage of the cache's own. */
  planeBytes: number;
  /** Positions of keys; 0 until they are kept. */
  positionBytes: number;
  /** Page tables on the device. */
  tableBytes: number;
  /** Books on the host: by sequence, by page, and the host's copy of the page tables. */
  hostBytes: number;
}

/** A paged KV cache: storage of all layers, page tables, and the sequences that live in it. */
export class PagedCache extends Owner {
  readonly pool: SequencePool;
  readonly planes: readonly PlaneOptions[];
  /** Page group of each layer. */
  readonly layerGroups: Int32Array;
  /** Views [pages, pageSize, heads, dim] by layer and plane. */
  readonly #views: Tensor[][] = [];
  readonly #owned: Tensor[] = [];
  /** By page group, the planes that its moves touch. */
  readonly #copies: CopyTable[] = [];
  readonly #upload: StepUpload;
  /** Once positions of keys are kept. */
  #positions: KeyPositions | undefined;
  readonly #appends: StepAppends;

  private constructor(
    readonly device: Device,
    readonly options: PagedCacheOptions,
    part: ContextPart | undefined,
  ) {
    super("paged cache");
    const groups = groupsOf(options);
    this.planes = planesOf(options);
    this.layerGroups = new Int32Array(options.layers);
    groups.forEach((group, g) => group.layers.forEach((layer) => (this.layerGroups[layer] = g)));
    const { pageSize, layers, keyPositions, maxSequences = 512 } = options;
    const sizes = { pageSize: pageSize * (part?.ranks ?? 1), maxSequences, layers };
    this.pool = new SequencePool({ ...sizes, groups, keyPositions, part });
    try {
      for (let layer = 0; layer < options.layers; layer++) {
        const { pages } = groups[this.layerGroups[layer]];
        const { views, owned } = layerStorage(device, options, this.planes, layer, pages);
        this.#views.push(views);
        this.#owned.push(...owned);
      }
      for (const { layers } of groups) this.#addCopies(layers);
      this.#upload = new StepUpload(device, this.pool, this.#copies);
      this.#appends = new StepAppends(device, this.planes, this.#views, this.#upload, pageSize);
      if (keyPositions) this.#positions = this.#makePositions();
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** Allocates a cache; `part` is the engine's. Errors: OptionError, OutOfMemoryError. */
  static create(device: Device, options: PagedCacheOptions, part?: ContextPart): PagedCache {
    requireDevice(device);
    checkCacheOptions(options);
    return new PagedCache(device, options, part);
  }

  get pageSize(): number {
    return this.options.pageSize;
  }

  /**
   * A new sequence, empty or starting from cached pages. Errors: OptionError when all are taken.
   */
  sequence(options: { prefix?: PrefixMatch } = {}): Sequence {
    this.guard();
    return this.pool.create(options);
  }

  /** An index of this cache's pages by token ids. */
  prefixIndex(): PrefixIndex {
    this.guard();
    return new PrefixIndex(this.pool);
  }

  /**
   * Grows each sequence by its number of new tokens and returns the step: lengths, positions, slot
   * mapping, levels. Out of pages is a result (`ok: false`), not a throw; then nothing has changed.
   * One step at a time: the batch of the step before is stale. Errors: PlanError, and nothing has
   * changed, while sequences hold tokens of the step before that were not appended in every layer;
   * `rollback` gives them back.
   */
  reserve(
    sequences: readonly Sequence[],
    newTokens: ArrayLike<number>,
    options?: ReserveOptions,
  ): Batch | OutOfPages {
    this.guard();
    refuseCapture(this.device, "reserve");
    const batch = this.pool.reserve(sequences, newTokens, options);
    if (this.#positions === undefined && this.pool.state.places.kept) this.#keepPositions();
    return batch;
  }

  /**
   * Gives back what the last step took, such as after a throw between `reserve` and the last layer:
   * sequences have the lengths and pages of before, and the batch is stale. Pages that a window had
   * passed stay free; a page that the step copied to write it stays a copy where another sequence
   * has written or freed the original. Errors: PlanError for a batch that is stale or of another
   * cache.
   */
  rollback(batch: Batch): void {
    this.guard();
    refuseCapture(this.device, "rollback");
    this.pool.rollback(batch);
  }

  /**
   * Says that the step's new tokens are in all layers without `append`: kernels of your own wrote
   * them. Errors: PlanError for a batch that is stale or of another cache.
   */
  markWritten(batch: Batch): void {
    this.guard();
    const positions = this.#positions?.tensors ?? [];
    for (let g = 0; g < positions.length; g++) {
      this.sync(batch, this.device.stream);
      this.#appends.queuePositions(batch, g, positions[g], this.device.stream);
    }
    for (let layer = 0; layer < this.options.layers; layer++) this.pool.wrote(batch, layer);
  }

  /**
   * @internal Throws a PlanError unless a layer holds the new tokens of the step. Called by
   * attention, which would read rows that nobody wrote.
   */
  requireWritten(layer: number): void {
    if (this.pool.state.writes.has(layer)) return;
    throw new PlanError(
      `layer ${layer} does not hold the step's new tokens. ` +
        "Fix: append before run, or call markWritten where kernels of your own write them.",
    );
  }

  /** Turns prefixes that neighbours in the batch share into a level of their own, where it pays. */
  sharePrefixes(batch: Batch, sequences: readonly Sequence[], worthSharing: WorthSharing): boolean {
    this.guard();
    return sharePrefixes(batch, sequences, worthSharing);
  }

  /**
   * Writes the batch's new tokens of one layer into its pages, as one kernel: all planes at once,
   * rounded to the cache's dtype. Errors: OptionError for shapes and dtypes, PlanError for a batch
   * that is stale or of another cache.
   */
  append(tensors: AppendTensors): void;
  /** @internal `by`: what launches the kernel. */
  append(tensors: AppendTensors, by: Appender | undefined): void;
  append(tensors: AppendTensors, by?: Appender): void {
    this.guard();
    if (typeof tensors !== "object" || tensors === null) {
      const fix = "pass { layer, batch, k, v }.";
      throw new OptionError("tensors", tensors, "an object of tensors", fix);
    }
    const { layer, batch, stream = this.device.stream } = tensors;
    requireInteger("layer", layer, 0, this.options.layers - 1);
    requireStream(stream, this.device);
    this.sync(batch, stream);
    const group = this.layerGroups[layer];
    this.#appends.queue(tensors, group, this.#positions?.tensors[group], stream, by);
    if (this.device.capturing) this.#watch(tensors);
    else this.pool.wrote(batch, layer);
  }

  /**
   * @internal Uploads what the step needs on the device, once per step: page-table differences,
   * page copies, slot mappings. Called by append and by attention. Returns whether it queued
   * anything.
   */
  sync(batch: Batch, stream: Stream): boolean {
    requireBatch(batch);
    if (batch.owner !== this.pool)
      throw new PlanError("the batch was not reserved from this cache. Fix: use cache.reserve.");
    return this.#upload.send(batch, stream);
  }

  /**
   * @internal Address of a group's device page table, int32: a layout row's pages from its slot on.
   */
  tableAddress(group: number): number {
    return this.#upload.tableAddress(group);
  }

  /** Bytes that the cache takes; `device.memoryStats()` shows the tables as "page table". */
  memoryStats(): CacheMemory {
    let planeBytes = 0;
    for (const { shape, dtype } of this.#owned)
      planeBytes += shape.reduce((product, size) => product * size, dtypeBytes(dtype));
    const { hostBytes } = this.pool.state;
    const positions = this.#positions?.tensors ?? [];
    const positionBytes = positions.reduce((sum, { elements }) => sum + 4 * elements, 0);
    return { planeBytes, positionBytes, tableBytes: this.#upload.tableBytes, hostBytes };
  }

  /**
   * Positions of a layer's keys, int32 [pages, pageSize], below 0 where a key stands at its place
   * in the sequence; undefined while all do. Errors: OptionError.
   */
  keyPositions(layer: number): Tensor | undefined {
    this.guard();
    requireInteger("layer", layer, 0, this.options.layers - 1);
    return this.#positions?.tensors[this.layerGroups[layer]];
  }

  /** A layer's plane as [pages, pageSize, heads, dim]. Errors: OptionError. */
  plane(layer: number, name: string): Tensor {
    this.guard();
    requireInteger("layer", layer, 0, this.options.layers - 1);
    const index = this.planes.findIndex((plane) => plane.name === name);
    if (index < 0) {
      const names = this.planes.map((plane) => plane.name).join(", ");
      throw new OptionError("plane", name, `one of ${names}`, "name a plane of this cache.");
    }
    return this.#views[layer][index];
  }

  /** @internal */
  override toString(): string {
    const planes = this.planes.map(
      ({ name, dtype, heads, dim }) => `${name} ${dtype} [${heads}, ${dim}]`,
    );
    const layers = counted(this.options.layers, "layer");
    const what = `PagedCache on ${this.device.label}: ${layers} of ${planes.join(" and ")}`;
    return `${what}; ${this.pool.describe()}${this.gone ? " (disposed)" : ""}`;
  }

  protected override release(): void {
    for (const tensor of this.#owned) tensor[Symbol.dispose]();
    for (const copies of this.#copies) copies[Symbol.dispose]();
    this.#positions?.[Symbol.dispose]();
    this.#upload?.[Symbol.dispose]();
  }

  #makePositions(): KeyPositions {
    const pages = this.pool.groups.map(({ allocator }) => allocator.pageCount);
    return new KeyPositions(this.device, pages, this.pageSize, this.#copies);
  }

  /** From now on; what was reserved is given back if there is no memory. */
  #keepPositions(): void {
    try {
      this.#positions = this.#makePositions();
    } catch (error) {
      this.pool.rollback(this.pool.lastBatch!);
      this.pool.state.places.kept = false;
      throw error;
    }
  }

  /**
   * A replay needs the buffers and the padded tokens of the capture, and scales of all its
   * requests; then its step is uploaded, and written in the captured layers.
   */
  #watch({ layer, batch: { paddedTokens }, kScale, vScale }: AppendTensors): void {
    const { device, pool } = this;
    const check = this.#upload.captured(paddedTokens);
    for (const scale of [kScale, vScale]) {
      if (scale?.shape.length !== 2) continue;
      const reach = { heads: scale.shape[1], pages: 0, pageTokens: 0 };
      const option = scale === kScale ? "kScale" : "vScale";
      device.onReplay(scale, () =>
        scaleStrides(option, scale, { ...reach, requests: pool.lastBatch!.requestCount }),
      );
    }
    device.onReplay(this, (replayed) => {
      this.guard();
      const batch = pool.lastBatch!;
      check(batch);
      this.sync(batch, replayed);
    });
    device.afterReplay(() => pool.state.writes.add(layer));
  }

  /** Adds the planes of layers that share pages. */
  #addCopies(layers: readonly number[]): void {
    const copies = new CopyTable(this.device);
    this.#copies.push(copies);
    for (const layer of layers)
      for (const [i, plane] of this.planes.entries())
        copies.add(this.#views[layer][i], plane.heads, plane.dim * dtypeBytes(plane.dtype));
    copies.upload();
  }
}
