import { listsOf } from "../cache/page-lists.ts";
import { requireDevice } from "../device/context.ts";
import type { Device } from "../device/device.ts";
import { Owner } from "../device/owner.ts";
import type { Stream } from "../device/stream.ts";
import { OptionError, PlanError } from "../errors.ts";
import { type Batch, requireBatch } from "../kv/batch.ts";
import type { WorthSharing } from "../kv/share-prefixes.ts";
import { requireInteger, requireNumber } from "../require.ts";
import { Rope } from "../ops/rope.ts";
import { paysToShare } from "../plan/cost.ts";
import { livesUntil, type Plan } from "../plan/plan.ts";
import { Planner } from "../plan/planner.ts";
import { boundRanges } from "../variant/bound-ranges.ts";
import { bindMask } from "./bind-mask.ts";
import { BoundParams } from "./bound.ts";
import { Contents } from "./contents.ts";
import type { KernelFamily } from "./families/family.ts";
import { type AttentionKernels, resolveKernels, resolveKernelsNow } from "./families/resolve.ts";
import { families } from "./families/table.ts";
import { requireCaptured, requirePositions } from "./key-positions.ts";
import { launchPlan } from "./launch.ts";
import { type AttentionOptions, hasHook, type ResolvedOptions, resolveOptions } from "./options.ts";
import { PlanSections } from "./plan-sections.ts";
import { requireRaggedRows } from "./places.ts";
import { type PlanSettings, sameSettings, settingsOf } from "./settings.ts";
import { type PlainTensors, plainTensors, type RunTensors } from "./tensors.ts";
import { Workspace } from "./workspace.ts";

/**
 * Batched attention over any layout: plan once per step, run once per layer. Decode, prefill,
 * cascades, ragged and sparse layouts differ in the batch that is planned, not in the class.
 */
export class Attention extends Owner implements AsyncDisposable {
  readonly options: ResolvedOptions;
  /** Whether a shared prefix is cheaper as a level of its own; for cache.sharePrefixes. */
  readonly worthSharing: WorthSharing;
  readonly #planner: Planner;
  readonly #kernels: AttentionKernels;
  readonly #sections: PlanSections;
  readonly #bound: BoundParams;
  /** Where index tensors are looked at before kernels follow them. */
  readonly #contents: Contents | undefined;
  readonly #rope: Rope | undefined;
  /** What the family bound. */
  readonly #owned: Disposable | undefined;
  /** Of the last plan. */
  #settings: Required<PlanSettings>;
  #batch: Batch | undefined;
  #plan: Plan | undefined;

  private constructor(
    readonly device: Device,
    resolved: ResolvedOptions,
    kernels: AttentionKernels,
  ) {
    super("attention");
    this.options = this.#settings = resolved;
    const group = resolved.queryHeads / resolved.kvHeads;
    const { costs, classes, bind } = kernels.offer;
    this.worthSharing = (sharedTokens, requests, queryTokens) =>
      paysToShare(costs, sharedTokens, requests, queryTokens, group);
    this.#planner = new Planner({
      queryHeads: resolved.queryHeads,
      kvHeads: resolved.kvHeads,
      valueDim: resolved.valueDim,
      processors: device.processors,
      causal: resolved.causal,
      windowLeft: resolved.windowLeft,
      mask: resolved.mask,
      batchInvariant: resolved.batchInvariant,
      deviceLengths: resolved.deviceLengths,
      hookMasks: hasHook(resolved.variant, "mask"),
      visible: resolved.variant && (resolved.variant.visible ?? boundRanges(resolved.variant)),
      classes,
      costs,
      graph: resolved.graph,
    });
    this.#kernels = kernels;
    this.#sections = new PlanSections(device);
    this.#bound = new BoundParams(device, resolved, classes);
    if (device.checksContents) this.#contents = new Contents(device, resolved);
    this.#owned = bind?.(device, this.#bound.params);
    if (resolved.rope !== undefined) {
      this.#rope = Rope.create(device, resolved.headDim, resolved.rope);
      this.#bound.params.ropeRates = this.#rope.rates;
      this.#sections.waitFor(device.stream);
    }
  }

  /**
   * Makes an attention object and resolves every kernel its options can choose: plan and run never
   * compile. Errors: OptionError naming the option, CompileError.
   */
  static create(device: Device, options: AttentionOptions): Promise<Attention>;
  /** @internal `among`: kernel families to choose from. */
  static create(
    device: Device,
    options: AttentionOptions,
    among: readonly KernelFamily[] | undefined,
  ): Promise<Attention>;
  static async create(
    device: Device,
    options: AttentionOptions,
    among?: readonly KernelFamily[],
  ): Promise<Attention> {
    requireDevice(device);
    const resolved = resolveOptions(options);
    const from = among ?? families[device.kind];
    return new Attention(device, resolved, await resolveKernels(device, resolved, from));
  }

  /**
   * As create; kernels that no cache holds are compiled while this thread waits, on a GPU for some
   * seconds. Errors: OptionError, CompileError.
   */
  static createSync(device: Device, options: AttentionOptions): Attention;
  /** @internal `among`: kernel families to choose from. */
  static createSync(
    device: Device,
    options: AttentionOptions,
    among: readonly KernelFamily[] | undefined,
  ): Attention;
  static createSync(
    device: Device,
    options: AttentionOptions,
    among?: readonly KernelFamily[],
  ): Attention {
    requireDevice(device);
    const resolved = resolveOptions(options);
    const from = among ?? families[device.kind];
    return new Attention(device, resolved, resolveKernelsNow(device, resolved, from));
  }

  /** The plan of the last `plan` call: work lists, workspace bytes, a description to draw. */
  get lastPlan(): Plan | undefined {
    return this.device.disposed ? undefined : this.#plan;
  }

  /**
   * Schedules a batch, once per step for all layers; on the host, without a wait. Settings are for
   * the runs of this plan. Errors: PlanError for a batch over the graph's sizes, OptionError for
   * levels under batchInvariant, OutOfPagesError for a step that did not fit.
   */
  plan(batch: Batch, settings?: PlanSettings): Plan {
    this.guard();
    requireBatch(batch);
    if (this.device.capturing) {
      throw new PlanError("plan cannot be captured. Fix: plan before the capture and each replay.");
    }
    const settled = settingsOf(this.options, this.#kernels.offer.windows !== false, settings);
    requireRaggedRows(this.options, batch);
    requirePositions(this.options, settled.windowLeft, batch, this.device.kind);
    const plan = this.#planner.plan(batch, this.#sections.room, settled.windowLeft);
    this.#settings = settled;
    this.#bound.settle(settled);
    // The planner has one plan.
    if (this.#plan === undefined) livesUntil(plan, () => this.disposed || this.device.disposed);
    this.#plan = plan;
    this.#batch = batch;
    return plan;
  }

  /**
   * Queues one layer's attention for the planned batch. Shapes: q [tokens, queryHeads, headDim],
   * out [tokens, queryHeads, valueDim], lse f32 [tokens, queryHeads]; keys and values from the
   * cache's layer, or k and v. Errors: PlanError without a fresh plan, OptionError for shapes and
   * dtypes.
   */
  run(given: RunTensors): void {
    this.guard();
    if (typeof given !== "object" || given === null)
      throw new OptionError("tensors", given, "an object of tensors", "pass { q, out, ... }.");
    this.#requireFresh(given.batch);
    const tensors = plainTensors(this.device, given);
    const qScale = typeof tensors.qScale === "number" ? tensors.qScale : 1;
    requireNumber("qScale", qScale);
    const plan = this.#plan!;
    const batch = this.#batch!;
    const { cache, layer = 0, stream = this.device.stream } = tensors;
    const bound = this.#bound;
    // A captured run is replayed with all requests of its bucket.
    const requests = this.device.capturing ? plan.bucket : batch.requestCount;
    bound.bind(batch, requests, tensors);
    if (!this.device.capturing) cache?.requireWritten(layer);
    bound.params.scale = this.#settings.scale * qScale;
    // A kernel that starts early must not read what the one before it may be writing.
    const steps = cache ?? listsOf(batch);
    bound.params.pagesSettled = steps?.sync(batch, stream) === false ? 1 : 0;
    this.#sections.sync(plan, stream);
    const workspace = Workspace.of(this.device, stream);
    workspace.ensure(plan.workspaceBytes);
    const { address } = this.#sections.buffer;
    bound.point(plan, address, workspace, tensors);
    const { capturing } = this.device;
    const looked = capturing
      ? this.#contents?.capture(plan, batch, tensors, stream, bound.params)
      : this.#contents?.check(plan, batch, tensors, stream, bound.params);
    launchPlan(this.device, stream, this.#kernels, bound, plan, address);
    if (capturing) this.#watch(stream, plan, batch, tensors);
    if (looked) this.device.afterReplay(() => looked(this.#batch!));
  }

  /** @internal */
  override toString(): string {
    const { queryHeads, kvHeads, headDim, valueDim, dtype, kvDtype, causal } = this.options;
    const heads = `${queryHeads} query heads and ${kvHeads} KV heads of ${headDim} and ${valueDim}`;
    const kinds = `${dtype} over ${kvDtype}${causal ? ", causal" : ""}`;
    const what = `Attention on ${this.device.label}: ${heads}, ${kinds}`;
    return `${what}; ${this.gone ? "disposed" : (this.#plan ?? "no plan")}`;
  }

  /** Waits for the default stream, if the device is not lost, then frees the object. */
  async [Symbol.asyncDispose](): Promise<void> {
    const { device } = this;
    const waits = !this.disposed && !device.disposed && device.failure() === undefined;
    if (waits) await device.stream.done();
    this[Symbol.dispose]();
  }

  protected override release(): void {
    // The sections of a plan may lie in memory that goes now.
    if (this.#plan !== undefined) this.#plan.sections = new Int32Array(0);
    this.#sections[Symbol.dispose]();
    this.#contents?.[Symbol.dispose]();
    this.#owned?.[Symbol.dispose]();
    this.#rope?.[Symbol.dispose]();
  }

  /** Errors: PlanError unless the last plan is of a batch in use, and of `batch` if given. */
  #requireFresh(batch?: Batch): void {
    const planned = this.#batch;
    if (planned === undefined) {
      throw new PlanError("no batch was planned. Fix: call attention.plan(batch) once per step.");
    }
    if (planned.stale) {
      throw new PlanError(
        "the plan is stale: its cache reserved another step since, or rolled this one back. " +
          "Fix: plan each step's batch.",
      );
    }
    if (batch === undefined || batch === planned) return;
    requireBatch(batch);
    throw new PlanError(
      "the batch of the run is not the one that was planned last. " +
        "Fix: plan it, and end a step before the next one is planned on the same attention.",
    );
  }

  /** What a replay must still find: a fresh plan of the same bucket at the same addresses. */
  #watch(stream: Stream, captured: Plan, capturedBatch: Batch, tensors: PlainTensors): void {
    const settings = this.#settings;
    if (this.options.graph === undefined) {
      throw new PlanError("run was captured without graph sizes. Fix: create with { graph }.");
    }
    const { owner } = capturedBatch;
    if (owner === null) {
      const fix = "use cache.reserve, or step of page lists";
      throw new PlanError(`only batches of a cache or of page lists can be captured. Fix: ${fix}.`);
    }
    const inputs = Object.values(tensors.variantInputs ?? {});
    const owners = [...Object.values(tensors), ...inputs].filter((each) => each instanceof Owner);
    this.device.needOnReplay(...owners);
    const grids = captured.launches.map(({ grid }) => grid);
    const { columns } = captured.offsets;
    const { keyPositions, windowLeft } = this.#bound.params;
    const bound = { keyPositions, windowLeft };
    const { buffer } = this.#sections;
    const { version } = buffer;
    const lentBytes = Workspace.of(this.device, stream).lend(this.device);
    this.device.onReplay(this, (replayed) => {
      this.guard();
      this.#requireFresh();
      const plan = this.#plan!;
      let same = this.#batch!.owner === owner;
      for (let i = 0; i < grids.length; i++) same &&= plan.launches[i].grid === grids[i];
      same &&= plan.sectionInts === plan.offsets.columns || plan.offsets.columns === columns;
      if (!sameSettings(this.#settings, settings)) {
        throw new PlanError(
          "the plan has other settings than the captured one. Fix: plan with those, or capture.",
        );
      }
      if (!same) {
        throw new PlanError(
          "the plan is of another bucket or layout than the captured one. " +
            "Fix: replay that bucket's graph.",
        );
      }
      requireCaptured(this.options, bound, this.#batch!);
      listsOf(this.#batch!)?.sync(this.#batch!, replayed);
      bindMask(this.#bound.params, this.options, this.#batch!, 0, tensors);
      // The upload may be what makes a buffer grow.
      this.#sections.sync(plan, replayed);
      if (buffer.version === version && plan.workspaceBytes <= lentBytes) return;
      const grew = buffer.version === version ? "workspace" : buffer.label;
      throw new PlanError(
        `the ${grew} grew since the capture, for a plan of many shared prefixes. ` +
          "Fix: capture again, after a run of that one.",
      );
    });
  }
}

const headsMost = 65536;

/** Standard ALiBi slopes of `heads` heads (arXiv 2108.12409, section 3). */
export function alibiSlopes(heads: number): Float32Array {
  requireInteger("heads", heads, 1, headsMost, "pass the query heads");
  const closest = 2 ** Math.floor(Math.log2(heads));
  const slopes = new Float32Array(heads);
  for (let head = 0; head < heads; head++) {
    const extra = head >= closest;
    const power = extra ? (2 * (head - closest) + 1) / (2 * closest) : (head + 1) / closest;
    slopes[head] = 2 ** (-8 * power);
  }
  return slopes;
}
