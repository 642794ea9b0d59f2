import type { Device } from "../device/device.ts";
import { listsOf, type PageLists } from "../cache/page-lists.ts";
import { OptionError } from "../errors.ts";
import { AttentionMapParams, AttentionParams, TensorMap } from "../ffi/params.gen.ts";
import type { Batch } from "../kv/batch.ts";
import type { Plan } from "../plan/plan.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { keysOf } from "./bind-keys.ts";
import { bindMask } from "./bind-mask.ts";
import { bindOptions, bindTensors } from "./bind.ts";
import type { KernelClass } from "./families/family.ts";
import { keyPositionsOf } from "./key-positions.ts";
import type { ResolvedOptions } from "./options.ts";
import type { PlanSettings } from "./settings.ts";
import { type PlainTensors, sameTensors, tensorNames, tensorOf } from "./tensors.ts";
import { bindVariant } from "./variant/inputs.ts";
import type { Workspace } from "./workspace.ts";

/** Ints of the planes of keys, values and the ends of keys, with which the parameters begin. */
const planeInts = 24;

/** What differs from layer to layer: planes, and the maps that each class makes of them. */
interface LayerPlanes {
  readonly planes: Int32Array;
  readonly maps: readonly (Int32Array | undefined)[];
}

/**
 * The parameters of an attention object's kernels. The first run binds its tensors; a later run of
 * the same tensors for no more tokens and requests, of whatever plan, puts the planes of its layer
 * in place and no more, over the same page lists nothing. The first run after plan() points at what
 * the plan has on the device. Other tensors are bound again, another workspace is pointed at again;
 * what was bound within a capture, or refused halfway, is not remembered.
 */
export class BoundParams {
  /** What the kernels of all classes take, behind the maps of those that take some. */
  readonly params = new AttentionParams();
  readonly #device: Device;
  readonly #options: ResolvedOptions;
  readonly #classes: readonly KernelClass[];
  /** Of each class whose kernel takes maps; and in it, the maps of keys and values. */
  readonly #mapped: readonly (AttentionMapParams | undefined)[];
  readonly #planeMaps: readonly (Int32Array | undefined)[];
  /** Tokens and requests for which these tensors are bound; -1: bind. */
  #tokens = -1;
  #requests = -1;
  #bound: PlainTensors | undefined;
  /** Those of them that are given. */
  #given: Tensor[] = [];
  /** Of the cache's layers that were bound, from whatever plan. */
  #layers: (LayerPlanes | undefined)[] = [];
  /** Or the page lists over whose pages they are bound, from whatever step. */
  #lists: PageLists | undefined;
  /** The plan and the workspace that are pointed at. */
  #pointedPlan = -1;
  #workspace = -1;

  constructor(device: Device, options: ResolvedOptions, classes: readonly KernelClass[]) {
    this.#device = device;
    this.#options = options;
    this.#classes = classes;
    this.#mapped = classes.map(({ bindMaps }) => bindMaps && new AttentionMapParams());
    this.#planeMaps = this.#mapped.map((mapped) => mapped && planeMapsOf(mapped));
    bindOptions(this.params, options);
  }

  /** What the plan says of all runs. */
  settle({ softCap, windowLeft }: Required<PlanSettings>): void {
    this.params.softCap = softCap;
    this.params.windowLeft = windowLeft;
  }

  /** The parameters of a class's kernel, as all others have them now. */
  of(kernelClass: number): AttentionParams | AttentionMapParams {
    const mapped = this.#mapped[kernelClass];
    if (mapped === undefined) return this.params;
    mapped.attention.i32.set(this.params.i32);
    return mapped;
  }

  /**
   * Checks the tensors of a run, of up to so many requests, and writes them. Errors: OptionError.
   */
  bind(batch: Batch, requests: number, tensors: PlainTensors): void {
    if (this.#holds(batch, tensors)) {
      if (tensors.cache !== undefined) this.#putLayer(this.#layers[tensors.layer ?? 0]!);
    } else {
      // What is refused halfway is not bound, and a captured run needs rows for the whole graph.
      this.#tokens = -1;
      const mapped = bindTensors(
        this.#device,
        this.params,
        this.#options,
        batch,
        requests,
        tensors,
      );
      for (let i = 0; i < this.#classes.length; i++)
        this.#classes[i].bindMaps?.(mapped, this.#options, this.#mapped[i]!);
      if (!this.#device.capturing) this.#keep(batch, tensors);
    }
    requireWindow(tensors, this.params.windowLeft);
    bindMask(this.params, this.#options, batch, requests, tensors);
    const { capturing } = this.#device;
    const { params } = this;
    params.keyPositions = keyPositionsOf(
      this.#options,
      params.windowLeft,
      batch,
      tensors,
      capturing,
    );
    this.#bindVariant(batch, tensors);
  }

  /** Points at what is on the device: of the plan, of the stream, and of the cache's layer. */
  point(
    plan: Plan,
    sections: number,
    workspace: Workspace,
    { cache, layer = 0 }: PlainTensors,
  ): void {
    const { params } = this;
    if (cache !== undefined) {
      const group = cache.layerGroups[layer];
      params.pageTable = cache.tableAddress(group);
      // The slots of a cache's layouts are first entries of their rows.
      params.tableStride = 1;
    }
    if (plan.generation === this.#pointedPlan && workspace.counters === this.#workspace) return;
    this.#pointedPlan = plan.generation;
    this.#workspace = workspace.counters;
    const { offsets } = plan;
    params.merges = sections + 4 * offsets.merges;
    params.parts = sections + 4 * offsets.parts;
    params.columns = sections + 4 * offsets.columns;
    params.positions = sections + 4 * offsets.positions;
    params.tokenRequests = sections + 4 * offsets.tokenRequests;
    params.queryIndptr = sections + 4 * offsets.queryIndptr;
    params.plannedKvLengths = sections + 4 * offsets.kvLengths;
    params.counters = workspace.counters;
    params.partialOut = workspace.partials;
    params.partialLse = workspace.partials + 4 * plan.partialCapacity * this.#options.valueDim;
    params.mergeCount = plan.mergeGrid;
  }

  /**
   * Whether everything except the layer's planes is bound already, and the planes were bound once.
   */
  #holds(batch: Batch, tensors: PlainTensors): boolean {
    if (batch.tokenCount > this.#tokens || batch.requestCount > this.#requests) return false;
    if (this.#device.capturing) return false;
    const { cache, layer = 0 } = tensors;
    const bound = this.#bound!;
    if (cache !== bound.cache || !sameTensors(tensors, bound)) return false;
    if (cache !== undefined) {
      if (this.#layers[layer] === undefined) return false;
      cache.guard();
    } else {
      const isOfLists = this.#lists !== undefined && this.#lists === plainLists(batch, tensors);
      if (!isOfLists || tensors.layout !== bound.layout) return false;
    }
    for (let i = 0; i < this.#given.length; i++) this.#given[i].guard();
    return true;
  }

  #keep(batch: Batch, tensors: PlainTensors): void {
    const { tokenCount, requestCount } = batch;
    const { cache, layer = 0, kScale, vScale } = tensors;
    this.#lists = plainLists(batch, tensors);
    // Scales are checked against the pages of each layer.
    if (kScale === undefined && vScale === undefined) this.#tokens = tokenCount;
    this.#requests = requestCount;
    if (cache !== this.#bound?.cache) this.#layers = [];
    if (cache !== undefined) {
      this.#layers[layer] ??= {
        planes: this.params.i32.slice(0, planeInts),
        maps: this.#planeMaps.map((maps) => maps?.slice()),
      };
    }
    this.#bound = { ...tensors };
    this.#given = tensorNames.flatMap((name) => tensorOf(tensors[name]) ?? []);
  }

  #putLayer({ planes, maps }: LayerPlanes): void {
    const { i32 } = this.params;
    for (let i = 0; i < planeInts; i++) i32[i] = planes[i];
    for (let i = 0; i < maps.length; i++) this.#planeMaps[i]?.set(maps[i]!);
  }

  /** Layers may bring inputs of their own: they are looked at in each run. */
  #bindVariant(batch: Batch, tensors: PlainTensors): void {
    const { variantInputs } = tensors;
    if (this.#options.variant !== undefined) {
      const k = keysOf(this.#options, tensors)!;
      bindVariant(this.#device, this.params, this.#options, batch, k, tensors);
    } else if (variantInputs !== undefined) {
      const allowed = "left out: the attention has no variant";
      throw new OptionError("variantInputs", variantInputs, allowed, "create with { variant }.");
    }
  }
}

/** The page lists that a batch is of, where their sizes say all that a step has in the pages. */
function plainLists(batch: Batch, { valuePageTable }: PlainTensors): PageLists | undefined {
  const isPlain = valuePageTable === undefined && batch.layout.raggedRows !== true;
  return isPlain ? listsOf(batch) : undefined;
}

/** The maps of keys and values: they lie side by side. */
function planeMapsOf({ i32 }: AttentionMapParams): Int32Array {
  const ints = TensorMap.byteLength / 4;
  return i32.subarray(ints, 3 * ints);
}

/** A page group keeps the keys of its window, of which attention may see all or fewer. */
function requireWindow({ cache, layer = 0, kvLengths }: PlainTensors, windowLeft: number): void {
  if (cache === undefined) return;
  const kept = cache.pool.groups[cache.layerGroups[layer]].windowLeft;
  if (kept >= 0 && kvLengths !== undefined) {
    const fix = "give the lengths with the batch, or keep the group's pages.";
    const allowed = "left out: the layer's page group frees pages by the batch's lengths";
    throw new OptionError("kvLengths", kvLengths.label, allowed, fix);
  }
  if (kept < 0 || (windowLeft >= 0 && windowLeft <= kept)) return;
  const fix = `create the attention of layer ${layer}, or plan its steps, with that windowLeft.`;
  const allowed = `at most ${kept}: the layer's page group keeps no more`;
  throw new OptionError("windowLeft", windowLeft, allowed, fix);
}
