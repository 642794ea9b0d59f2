import type { Device } from "../device/device.ts";
import type { Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { AttentionParams, AttentionRecord } from "../ffi/params.gen.ts";
import type { Plan } from "../plan/planner.ts";
import { bindOptions } from "./bind.ts";
import type { AttentionKernels } from "./families/resolve.ts";
import type { ResolvedOptions } from "./options.ts";
import type { PagedCache } from "../cache/paged-cache.ts";
import type { Workspace } from "./workspace.ts";

/**
 * Blocks that share the rows of one merge at most, and blocks for which a multiprocessor has room.
 */
const mergeShareMost = 16;
const mergeBlocks = 4;

/** The parameters of an attention object's kernels, and their launches. */
export class AttentionLaunch {
  readonly params = new AttentionParams();
  readonly #device: Device;
  readonly #valueDim: number;
  readonly #kernels: AttentionKernels;
  /** What the parameters point at. */
  #generation = -1;
  #sections = -1;
  #workspace = -1;
  #ropeTable = -1;

  constructor(device: Device, options: ResolvedOptions, kernels: AttentionKernels) {
    this.#device = device;
    this.#valueDim = options.valueDim;
    this.#kernels = kernels;
    bindOptions(this.params, options);
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
    params.partialLse = workspace.partials + 4 * plan.partialCapacity * this.#valueDim;
    params.mergeCount = plan.mergeGrid;
    params.ropeTable = ropeTable;
  }

  /** Queues the plan's launches, then the merge of split rows. */
  queue(stream: Stream, plan: Plan, sections: number): void {
    const { params } = this;
    const device = this.#device;
    for (let i = 0; i < plan.launches.length; i++) {
      const launch = plan.launches[i];
      if (launch.grid === 0) continue;
      const first = plan.offsets.records * 4 + launch.firstRecord * AttentionRecord.byteLength;
      params.records = sections + first;
      params.recordCount = launch.grid;
      device.launch(stream, this.#kernels.tiled[i], params, launch.grid);
    }
    if (plan.mergeGrid === 0) return;
    const share = device.kind === "cpu" ? 1 : mergeShare(plan.mergeGrid, device.processors);
    device.launch(stream, this.#kernels.merge, params, plan.mergeGrid * share);
  }
}

/** Blocks for each merge: few merges are shared by more blocks of a GPU. */
function mergeShare(merges: number, processors: number): number {
  const room = Math.floor((mergeBlocks * processors) / merges);
  return Math.max(1, Math.min(mergeShareMost, room));
}
