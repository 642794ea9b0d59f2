import type { Device } from "../device/device.ts";
import type { Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import {
  AttentionMapParams,
  AttentionParams,
  AttentionRecord,
  TensorMap,
} from "../ffi/params.gen.ts";
import type { Plan } from "../plan/plan.ts";
import { bindOptions } from "./bind.ts";
import type { MappedTensors } from "./families/family.ts";
import type { AttentionKernels } from "./families/resolve.ts";
import type { ResolvedOptions } from "./options.ts";
import type { PagedCache } from "../cache/paged-cache.ts";
import type { Workspace } from "./workspace.ts";

/** Ints of the key and value planes, with which the parameters begin. */
const planeInts = 16;

/** What is bound of one layer. */
export interface Planes {
  readonly params: Int32Array;
  /** Of each class whose kernel takes maps. */
  readonly maps: readonly (Int32Array | undefined)[];
}

/** The parameters of an attention object's kernels, and their launches. */
export class AttentionLaunch {
  /** What the kernels of all classes take, behind the maps of those that take some. */
  readonly params = new AttentionParams();
  readonly #device: Device;
  readonly #options: ResolvedOptions;
  readonly #kernels: AttentionKernels;
  /** Of each class whose kernel takes maps. */
  readonly #mapped: readonly (AttentionMapParams | undefined)[];
  /** What the parameters point at. */
  #generation = -1;
  #sections = -1;
  #workspace = -1;
  #ropeTable = -1;

  constructor(device: Device, options: ResolvedOptions, kernels: AttentionKernels) {
    this.#device = device;
    this.#options = options;
    this.#kernels = kernels;
    const { classes } = kernels.offer;
    this.#mapped = classes.map(({ bindMaps }) => bindMaps && new AttentionMapParams());
    bindOptions(this.params, options);
  }

  /** Encodes the tensor maps of the classes that take some. */
  bindMaps(tensors: MappedTensors): void {
    const { classes } = this.#kernels.offer;
    for (let i = 0; i < classes.length; i++)
      classes[i].bindMaps?.(tensors, this.#options, this.#mapped[i]!);
  }

  /** What is bound of a layer alone: the planes, which begin the parameters, and their maps. */
  keepPlanes(): Planes {
    const maps = this.#mapped.map((each) => each && planeMaps(each).slice());
    return { params: this.params.i32.slice(0, planeInts), maps };
  }

  /** Puts back what keepPlanes() returned. */
  putPlanes(planes: Planes): void {
    this.params.i32.set(planes.params);
    for (let i = 0; i < this.#mapped.length; i++) {
      const mapped = this.#mapped[i];
      if (mapped !== undefined) planeMaps(mapped).set(planes.maps[i]!);
    }
  }

  /** Points at the page table of a cache's layer. */
  table(cache: PagedCache, layer: number): void {
    const group = cache.layerGroups[layer];
    const kept = cache.pool.groups[group].windowLeft;
    if (kept >= 0 && (this.params.windowLeft < 0 || this.params.windowLeft > kept)) {
      const fix = `create the attention of layer ${layer} with that windowLeft.`;
      const allowed = `at most ${kept}: the layer's page group keeps no more`;
      throw new OptionError("windowLeft", this.params.windowLeft, allowed, fix);
    }
    this.params.pageTable = cache.tableAddress(group);
    this.params.tableStride = cache.tableStride(group);
  }

  /** Points at a plan's sections and workspace on the device; once for the layers of a step. */
  plan(plan: Plan, sections: number, workspace: Workspace, ropeTable: number): void {
    const { params } = this;
    const same = plan.generation === this.#generation && sections === this.#sections;
    if (same && workspace.counters === this.#workspace && ropeTable === this.#ropeTable) return;
    this.#generation = plan.generation;
    this.#sections = sections;
    this.#workspace = workspace.counters;
    this.#ropeTable = ropeTable;
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
    params.ropeTable = ropeTable;
  }

  /** Queues the plan's launches, then the merge of split rows. */
  queue(stream: Stream, plan: Plan, sections: number): void {
    const { params } = this;
    const device = this.#device;
    const { kernels, merge, offer } = this.#kernels;
    for (let i = 0; i < plan.launches.length; i++) {
      const launch = plan.launches[i];
      if (launch.grid === 0) continue;
      const first = plan.offsets.records * 4 + launch.firstRecord * AttentionRecord.byteLength;
      params.records = sections + first;
      params.recordCount = launch.grid;
      const mapped = this.#mapped[i];
      mapped?.attention.i32.set(params.i32);
      device.launch(stream, kernels[i], mapped ?? params, launch.grid);
    }
    if (plan.mergeGrid === 0) return;
    const shares = offer.merge.shares(plan.mergeGrid, device.processors);
    device.launch(stream, merge, params, plan.mergeGrid * shares);
  }
}

/** The maps of keys and values: they lie side by side. */
function planeMaps({ i32 }: AttentionMapParams): Int32Array {
  const ints = TensorMap.byteLength / 4;
  return i32.subarray(ints, 3 * ints);
}
