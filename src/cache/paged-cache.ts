import type { Device } from "../device/device.ts";
import { Owner } from "../device/owner.ts";
import { GrowingBuffer, PinnedRing } from "../device/ring.ts";
import type { Stream } from "../device/stream.ts";
import { OptionError, PlanError, requireInteger } from "../errors.ts";
import { type Batch, type OutOfPages, requireBatch } from "../kv/batch.ts";
import { PrefixIndex } from "../kv/prefix-index.ts";
import type { ReserveOptions } from "../kv/reserve.ts";
import { type PrefixMatch, type Sequence, SequencePool } from "../kv/sequence.ts";
import { sharePrefixes, type WorthSharing } from "../kv/share-prefixes.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import { Tensor } from "../tensor/tensor.ts";
import { type AppendScales, Appender } from "./append.ts";
import {
  checkCacheOptions,
  groupsOf,
  type PagedCacheOptions,
  type PlaneOptions,
  planesOf,
} from "./options.ts";
import { CopyTable, queueTableUpdates } from "./page.ts";

/** What one append writes; each tensor is [tokens, heads, dim] with innermost stride 1. */
export interface AppendTensors {
  layer: number;
  batch: Batch;
  /** New keys: the plane "key". */
  k?: Tensor;
  /** New values: the plane "value". */
  v?: Tensor;
  /** Other planes by name. */
  planes?: Record<string, Tensor>;
  /** f32 scales that divide keys and values before they are rounded to fp8. */
  kScale?: Tensor;
  vScale?: Tensor;
  stream?: Stream;
}

/** A page group on the device: its table and the planes that its moves touch. */
interface DeviceGroup {
  table: GrowingBuffer;
  version: number;
  copies: CopyTable;
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
  readonly #groups: DeviceGroup[] = [];
  readonly #ring: PinnedRing;
  readonly #step: GrowingBuffer;
  readonly #appender: Appender;
  /** The step reserved last: what a replayed graph appends. */
  #batch: Batch | undefined;
  #stepGeneration = -1;
  #stepOffsets: number[] = [];

  private constructor(
    readonly device: Device,
    readonly options: PagedCacheOptions,
  ) {
    super("paged cache");
    const groups = groupsOf(options);
    this.planes = planesOf(options);
    this.layerGroups = new Int32Array(options.layers);
    groups.forEach((group, g) => group.layers.forEach((layer) => (this.layerGroups[layer] = g)));
    const { pageSize, maxSequences = 512 } = options;
    this.pool = new SequencePool({ pageSize, maxSequences, groups });
    this.#ring = new PinnedRing(device, "cache upload ring");
    this.#step = new GrowingBuffer(device, "cache step");
    this.#appender = new Appender(device);
    try {
      for (let layer = 0; layer < options.layers; layer++) {
        this.#views.push(this.#allocateLayer(layer, groups[this.layerGroups[layer]].pages));
      }
      for (const group of groups) this.#groups.push(this.#createGroup(group.layers));
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** Allocates a cache. Errors: OptionError naming the option, OutOfMemoryError. */
  static create(device: Device, options: PagedCacheOptions): PagedCache {
    device.guard();
    checkCacheOptions(options);
    return new PagedCache(device, options);
  }

  get pageSize(): number {
    return this.pool.pageSize;
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
   */
  reserve(
    sequences: readonly Sequence[],
    newTokens: ArrayLike<number>,
    options?: ReserveOptions,
  ): Batch | OutOfPages {
    this.guard();
    this.#refuseCapture("reserve");
    const batch = this.pool.reserve(sequences, newTokens, options);
    if (batch.ok) this.#batch = batch;
    return batch;
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
  append(tensors: AppendTensors): void {
    this.guard();
    const { layer, batch } = tensors;
    requireInteger("layer", layer, 0, this.options.layers - 1);
    const stream = tensors.stream ?? this.device.stream;
    this.sync(batch, stream);
    const group = this.layerGroups[layer];
    const appender = this.#appender;
    appender.begin(this.pageSize, batch, this.#step.address + 4 * this.#stepOffsets[group]);
    appender.tokenRequests = this.#step.address + 4 * this.#stepOffsets[this.#groups.length];
    for (let i = 0; i < this.planes.length; i++) {
      const { name } = this.planes[i];
      const source = this.#sourceOf(tensors, name);
      appender.plane(optionOf(name), this.#views[layer][i], source, scaleOf(tensors, name));
    }
    appender.launch(stream);
    if (this.device.capturing) this.#watch(batch.paddedTokens);
  }

  /**
   * Uploads what the step needs on the device, once per step: page-table differences, page copies,
   * slot mappings. Called by append and by attention. Returns whether it queued anything.
   */
  sync(batch: Batch, stream: Stream): boolean {
    requireBatch(batch);
    if (batch.owner !== this.pool) {
      throw new PlanError("the batch was not reserved from this cache. Fix: use cache.reserve.");
    }
    if (batch.generation === this.#stepGeneration && !this.#pending()) return false;
    this.#refuseCapture("the first use of a step");
    const ints = this.#writeStep(batch);
    this.#step.ensure(ints * 4);
    this.#ring.upload(stream, this.#step.address, ints);
    this.#stepGeneration = batch.generation;
    let offset = this.#stepOffsets[this.#groups.length] + batch.paddedTokens;
    for (let g = 0; g < this.#groups.length; g++) offset = this.#syncGroup(g, offset, stream);
    return true;
  }

  /** Address of a group's device page table, int32 [maxSequences, stride]. */
  tableAddress(group: number): number {
    return this.#groups[group].table.address;
  }

  /** Entries a row of a group's page table. */
  tableStride(group: number): number {
    return this.pool.groups[group].table.stride;
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

  protected override release(): void {
    for (const tensor of this.#owned) tensor[Symbol.dispose]();
    for (const { table, copies } of this.#groups) {
      table[Symbol.dispose]();
      copies[Symbol.dispose]();
    }
    this.#ring[Symbol.dispose]();
    this.#step[Symbol.dispose]();
  }

  #pending(): boolean {
    const { groups } = this.pool;
    for (let g = 0; g < groups.length; g++) {
      const { table, moveCount } = groups[g];
      if (table.updateCount > 0 || moveCount > 0) return true;
      if (table.version !== this.#groups[g].version) return true;
    }
    return false;
  }

  #stepInts(batch: Batch): number {
    let ints = batch.paddedTokens * (this.#groups.length + 1);
    for (let g = 0; g < this.#groups.length; g++) ints += this.#groupInts(g);
    return ints;
  }

  /**
   * Lays out [slot mappings by group | token requests | per group: updates, moves]; returns ints.
   */
  #writeStep(batch: Batch): number {
    const { groups } = this.pool;
    const tokens = batch.paddedTokens;
    const ints = this.#stepInts(batch);
    const { i32 } = this.#ring.take(ints);
    let offset = 0;
    for (let g = 0; g <= groups.length; g++) {
      const source = g < groups.length ? batch.slotMappings[g] : batch.tokenRequests;
      copyInts(i32, offset, source, tokens);
      this.#stepOffsets[g] = offset;
      offset += tokens;
    }
    for (let g = 0; g < groups.length; g++) {
      const { table, pendingMoves, moveCount } = groups[g];
      const updates = this.#whole(g) ? table.data : table.updates;
      const updateInts = this.#groupInts(g) - 3 * moveCount;
      copyInts(i32, offset, updates, updateInts);
      offset += updateInts;
      copyInts(i32, offset, pendingMoves, 3 * moveCount);
      offset += 3 * moveCount;
    }
    return ints;
  }

  /** True when the table moved or grew: then all of it goes up, not its differences. */
  #whole(g: number): boolean {
    return this.pool.groups[g].table.version !== this.#groups[g].version;
  }

  #groupInts(g: number): number {
    const { table, moveCount } = this.pool.groups[g];
    return (this.#whole(g) ? table.data.length : 2 * table.updateCount) + 3 * moveCount;
  }

  #syncGroup(g: number, offset: number, stream: Stream): number {
    const { table, moveCount } = this.pool.groups[g];
    const target = this.#groups[g];
    const address = this.#step.address + 4 * offset;
    const moves = offset + this.#groupInts(g) - 3 * moveCount;
    if (this.#whole(g)) {
      target.table.ensure(table.data.length * 4);
      stream.copy(target.table.address, address, table.data.length * 4);
      target.version = table.version;
    } else if (table.updateCount > 0) {
      queueTableUpdates(this.device, stream, target.table.address, address, table.updateCount);
    }
    target.copies.queue(stream, this.#step.address + 4 * moves, moveCount, this.pageSize);
    table.clearUpdates();
    this.pool.groups[g].clearMoves();
    return moves + 3 * moveCount;
  }

  #sourceOf(tensors: AppendTensors, name: string): Tensor {
    const source =
      tensors.planes?.[name] ??
      (name === "key" ? tensors.k : name === "value" ? tensors.v : undefined);
    if (source !== undefined) return source;
    const fix = `pass the new tokens of plane ${name}.`;
    throw new OptionError(optionOf(name), source, "a tensor", fix);
  }

  #refuseCapture(what: string): void {
    if (!this.device.capturing) return;
    throw new PlanError(
      `${what} cannot be captured. Fix: reserve, plan and run the step once before the capture.`,
    );
  }

  /** A replay needs the buffers and the padded tokens of the capture; then its step is uploaded. */
  #watch(paddedTokens: number): void {
    const { version } = this.#step;
    const strides = this.pool.groups.map(({ table }) => table.stride);
    this.device.onReplay(this, (replayed) => {
      this.guard();
      const batch = this.#batch!;
      if (batch.paddedTokens !== paddedTokens) {
        throw new PlanError(
          `the step holds ${batch.paddedTokens} padded tokens, the capture ${paddedTokens}. ` +
            `Fix: reserve with { padTo: ${paddedTokens} }.`,
        );
      }
      const grew = this.pool.groups.some(({ table }, g) => table.stride !== strides[g]);
      const full = !this.#step.fits(this.#stepInts(batch) * 4);
      if (grew || full || this.#step.version !== version) {
        throw new PlanError(
          "the cache's step buffer or page table grew since the capture. " +
            "Fix: capture again after a step of the largest size.",
        );
      }
      this.sync(batch, replayed);
    });
  }

  #allocateLayer(layer: number, pages: number): Tensor[] {
    const { options } = this;
    if (options.storage !== undefined) {
      return this.planes.map((plane) => this.#foreign(layer, plane, pages));
    }
    if (options.combined) return this.#allocateCombined(pages);
    return this.planes.map((plane) => {
      const shape = this.#storageShape(plane, pages);
      const tensor = Tensor.empty(this.device, shape, plane.dtype, `KV cache ${plane.name}`);
      this.#owned.push(tensor);
      return options.layout === "HND" ? tensor.permute(0, 2, 1, 3) : tensor;
    });
  }

  #allocateCombined(pages: number): Tensor[] {
    const [first, second] = this.planes;
    const shape = this.#storageShape(first, pages);
    if (second === undefined || this.#storageShape(second, pages).join() !== shape.join()) {
      const fix = "leave combined out, or give key and value the same heads and dim.";
      throw new OptionError("combined", true, "used with two planes of one shape", fix);
    }
    const tensor = Tensor.empty(
      this.device,
      [pages, 2, ...shape.slice(1)],
      first.dtype,
      "KV cache key and value",
    );
    this.#owned.push(tensor);
    return [0, 1].map((index) => {
      const view = tensor.select(1, index);
      return this.options.layout === "HND" ? view.permute(0, 2, 1, 3) : view;
    });
  }

  #storageShape({ heads, dim }: PlaneOptions, pages: number): number[] {
    const { pageSize, layout } = this.options;
    return layout === "HND" ? [pages, heads, pageSize, dim] : [pages, pageSize, heads, dim];
  }

  #foreign(layer: number, plane: PlaneOptions, pages: number): Tensor {
    const tensor = this.options.storage!(layer, plane);
    const shape = [pages, this.options.pageSize, plane.heads, plane.dim];
    if (tensor.shape.join() !== shape.join() || tensor.strides[3] !== 1) {
      const allowed = `a view [${shape.join(", ")}] whose innermost stride is 1`;
      const got = `[${tensor.shape.join(", ")}] with strides [${tensor.strides.join(", ")}]`;
      throw new OptionError(`storage(${layer}, ${plane.name})`, got, allowed, "permute the view.");
    }
    if (tensor.dtype !== plane.dtype) {
      throw new OptionError(
        `storage(${layer}, ${plane.name})`,
        tensor.dtype,
        plane.dtype,
        "match.",
      );
    }
    return tensor;
  }

  #createGroup(layers: readonly number[]): DeviceGroup {
    const copies = new CopyTable(this.device);
    for (const layer of layers) {
      for (const [i, plane] of this.planes.entries()) {
        copies.add(this.#views[layer][i], plane.heads, plane.dim * dtypeBytes(plane.dtype));
      }
    }
    copies.upload();
    return { table: new GrowingBuffer(this.device, "page table"), version: 0, copies };
  }
}

/**
 * Long stretches are worth the view that `set` needs; short ones, as in decode, make no garbage.
 */
function copyInts(target: Int32Array, at: number, source: Int32Array, count: number): void {
  if (count > 1024) target.set(source.subarray(0, count), at);
  else for (let i = 0; i < count; i++) target[at + i] = source[i];
}

/** The option of append that holds a plane's new tokens. */
function optionOf(plane: string): string {
  return plane === "key" ? "k" : plane === "value" ? "v" : `planes.${plane}`;
}

function scaleOf(tensors: AppendTensors, name: string): AppendScales | undefined {
  const scale = name === "key" ? tensors.kScale : name === "value" ? tensors.vScale : undefined;
  return scale === undefined ? undefined : { scale };
}
