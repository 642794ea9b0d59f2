import type { Device } from "../device/device.ts";
import { Owner } from "../device/owner.ts";
import { GrowingBuffer, PinnedRing } from "../device/ring.ts";
import { Event, type Stream } from "../device/stream.ts";
import { OptionError, PlanError } from "../errors.ts";
import { type Batch, requireBatch } from "../kv/batch.ts";
import type { WorthSharing } from "../kv/share-prefixes.ts";
import { RopeTable } from "../ops/rope.ts";
import type { Plan } from "../plan/plan.ts";
import { Planner } from "../plan/planner.ts";
import { worthSharing } from "../plan/cost.ts";
import { classesFor } from "../plan/traits.ts";
import { boundRanges } from "../variant/bound-ranges.ts";
import { bindTensors, keysOf, type RunTensors } from "./bind.ts";
import type { KernelFamily } from "./families/family.ts";
import { families } from "./families/table.ts";
import { type AttentionKernels, resolveKernels, resolveKernelsNow } from "./families/resolve.ts";
import { LastBinding } from "./last-binding.ts";
import { AttentionLaunch } from "./launch.ts";
import { type AttentionOptions, hasHook, type ResolvedOptions, resolveOptions } from "./options.ts";
import { bindVariant } from "./variant/inputs.ts";
import { Workspace } from "./workspace.ts";

/**
 * Batched attention over any layout: plan once a step, run once a layer. Decode, prefill, cascades,
 * ragged and sparse layouts differ in the batch that is planned, not in the class.
 */
export class Attention extends Owner implements AsyncDisposable {
  readonly options: ResolvedOptions;
  /** Whether a shared prefix is cheaper as a level of its own; for cache.sharePrefixes. */
  readonly worthSharing: WorthSharing;
  readonly #planner: Planner;
  readonly #ring: PinnedRing;
  readonly #sections: GrowingBuffer;
  readonly #launch: AttentionLaunch;
  readonly #last = new LastBinding();
  readonly #rope: RopeTable | undefined;
  /** What the family bound. */
  readonly #bound: Disposable | undefined;
  #batch: Batch | undefined;
  #plan: Plan | undefined;
  #batchGeneration = -1;
  #uploaded = false;
  /** True until a run waits for the rope table's upload; at first too. */
  #ropeMoved = true;
  /** Streams that read the plan's sections; the first uploaded them. */
  readonly #readers: Stream[] = [];
  #view: Int32Array | undefined;

  private constructor(
    readonly device: Device,
    resolved: ResolvedOptions,
    kernels: AttentionKernels,
  ) {
    super("attention");
    this.options = resolved;
    const group = resolved.queryHeads / resolved.kvHeads;
    const { costs, classes: all, bind } = kernels.offer;
    const longestQuery = resolved.graph?.maxQueryLength;
    const classes = longestQuery === undefined ? all : classesFor(all, longestQuery * group);
    this.worthSharing = (sharedTokens, requests, queryTokens) =>
      worthSharing(costs, sharedTokens, requests, queryTokens, group);
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
    this.#ring = new PinnedRing(device, "plan upload ring");
    this.#sections = new GrowingBuffer(device, "plan sections");
    this.#launch = new AttentionLaunch(device, resolved, kernels);
    this.#bound = bind?.(device, this.#launch.params);
    if (resolved.rope !== undefined) {
      this.#rope = new RopeTable(device, resolved.rope, resolved.headDim);
    }
  }

  /**
   * Makes an attention object and resolves every kernel its options can choose: plan and run never
   * compile. `among`: kernel families to choose from. Errors: OptionError naming the option,
   * CompileError.
   */
  static async create(
    device: Device,
    options: AttentionOptions,
    among: readonly KernelFamily[] = families[device.kind],
  ): Promise<Attention> {
    device.guard();
    const resolved = resolveOptions(options);
    return new Attention(device, resolved, await resolveKernels(device, resolved, among));
  }

  /**
   * As create, where no kernel has to be compiled: on the CPU, and on a GPU for options that were
   * compiled before. Errors: OptionError, DeviceError when one has to be compiled.
   */
  static createSync(
    device: Device,
    options: AttentionOptions,
    among: readonly KernelFamily[] = families[device.kind],
  ): Attention {
    device.guard();
    const resolved = resolveOptions(options);
    return new Attention(device, resolved, resolveKernelsNow(device, resolved, among));
  }

  /** The plan of the last `plan` call: work lists, workspace bytes, a description to draw. */
  get lastPlan(): Plan | undefined {
    return this.#plan;
  }

  /**
   * Schedules a batch, once a step for all layers; on the host, without a wait. Errors: PlanError
   * for a batch over the graph's sizes, OptionError for levels under batchInvariant,
   * OutOfPagesError for a step that did not fit.
   */
  plan(batch: Batch): Plan {
    this.guard();
    requireBatch(batch);
    if (this.device.capturing) {
      throw new PlanError("plan cannot be captured. Fix: plan before the capture and each replay.");
    }
    if (this.options.deviceLengths && batch.customPositions) {
      const fix = "leave positions out, or give the lengths with the batch.";
      throw new OptionError("positions", "custom", "not used with deviceLengths", fix);
    }
    const plan = this.#planner.plan(batch);
    if (this.#rope?.ensure(longest(batch))) this.#ropeMoved = true;
    this.#plan = plan;
    this.#batch = batch;
    this.#batchGeneration = batch.generation;
    this.#uploaded = false;
    return plan;
  }

  /**
   * Queues one layer's attention for the planned batch. Shapes: q [tokens, queryHeads, headDim],
   * out [tokens, queryHeads, valueDim], lse f32 [tokens, queryHeads]; keys and values from the
   * cache's layer, or k and v. Errors: PlanError without a fresh plan, OptionError for shapes and
   * dtypes.
   */
  run(tensors: RunTensors): void {
    this.guard();
    const { plan, batch } = this.#fresh();
    const stream = tensors.stream ?? this.device.stream;
    const { params } = this.#launch;
    // A captured run needs rows for the whole graph.
    if (this.device.capturing) this.#last.clear();
    if (!this.#last.reuse(this.#launch, batch, tensors)) {
      const bound = bindTensors(this.device, params, this.options, batch, tensors);
      this.#launch.bindMaps(bound);
      if (!this.device.capturing) this.#last.keep(this.#launch, batch, tensors);
    }
    this.#bindVariant(batch, tensors);
    // A kernel that starts early must not read what the one before it may be writing.
    const settled = tensors.cache?.sync(batch, stream) === false;
    params.pagesSettled = settled ? 1 : 0;
    if (tensors.cache !== undefined) this.#launch.table(tensors.cache, tensors.layer ?? 0);
    this.#upload(plan, stream);
    this.#follow(stream);
    const workspace = Workspace.of(this.device, stream);
    workspace.ensure(this.options.graph === undefined ? plan.workspaceBytes : plan.boundBytes);
    const { address } = this.#sections;
    this.#launch.plan(plan, address, workspace, this.#rope?.address ?? 0);
    this.#launch.queue(stream, plan, address);
    if (this.device.capturing) this.#watch(stream, plan, batch, tensors);
  }

  /** Waits for the default stream, then frees the object. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.disposed && !this.device.disposed) await this.device.stream.done();
    this[Symbol.dispose]();
  }

  protected override release(): void {
    this.#ring[Symbol.dispose]();
    this.#sections[Symbol.dispose]();
    this.#bound?.[Symbol.dispose]();
    this.#rope?.[Symbol.dispose]();
  }

  /** Layers may bring inputs of their own: they are looked at in each run. */
  #bindVariant(batch: Batch, tensors: RunTensors): void {
    const { options, device } = this;
    const { variantInputs } = tensors;
    if (options.variant !== undefined) {
      const k = keysOf(options, tensors)!;
      bindVariant(device, this.#launch.params, options, batch, k, variantInputs);
    } else if (variantInputs !== undefined) {
      const allowed = "left out: the attention has no variant";
      throw new OptionError("variantInputs", variantInputs, allowed, "create with { variant }.");
    }
  }

  #fresh(): { plan: Plan; batch: Batch } {
    const plan = this.#plan;
    const batch = this.#batch;
    if (plan === undefined || batch === undefined) {
      throw new PlanError("no batch was planned. Fix: call attention.plan(batch) once a step.");
    }
    if (batch.generation !== this.#batchGeneration) {
      throw new PlanError(
        "the plan is stale: its batch was reserved again since. Fix: plan each step's batch.",
      );
    }
    return { plan, batch };
  }

  /** Sends the plan's sections to the device at its first run. */
  #upload(plan: Plan, stream: Stream): void {
    if (this.#uploaded) return;
    if (this.device.capturing) {
      throw new PlanError("the plan was not uploaded. Fix: run the step once before the capture.");
    }
    // Other streams may still read the sections of the plan before.
    for (const reader of this.#readers) if (reader !== stream) after(stream, reader);
    this.#readers.length = 0;
    this.#readers.push(stream);
    if (this.#rope !== undefined && this.#ropeMoved && stream !== this.device.stream) {
      after(stream, this.device.stream);
    }
    this.#ropeMoved = false;
    const { i32 } = this.#ring.take(plan.sectionInts);
    i32.set(this.#valid(plan));
    this.#sections.ensure(plan.capacityInts * 4);
    this.#ring.upload(stream, this.#sections.address, plan.sectionInts);
    this.#uploaded = true;
  }

  /** A stream that did not upload the plan starts after the one that did. */
  #follow(stream: Stream): void {
    if (this.#readers.includes(stream) || this.device.capturing) return;
    after(stream, this.#readers[0]);
    this.#readers.push(stream);
  }

  /**
   * The valid part of the sections: a view that is kept while their size stays, as it does in
   * decode.
   */
  #valid({ sections, sectionInts }: Plan): Int32Array {
    const view = this.#view;
    if (view?.buffer === sections.buffer && view.length === sectionInts) return view;
    return (this.#view = sections.subarray(0, sectionInts));
  }

  /** What a replay must still find: a fresh plan of the same bucket at the same addresses. */
  #watch(stream: Stream, captured: Plan, capturedBatch: Batch, tensors: RunTensors): void {
    if (this.options.graph === undefined) {
      throw new PlanError("run was captured without graph sizes. Fix: create with { graph }.");
    }
    const { owner } = capturedBatch;
    if (owner === null) {
      throw new PlanError("only a cache's batches can be captured. Fix: use cache.reserve.");
    }
    const inputs = Object.values(tensors.variantInputs ?? {});
    const owners = [...Object.values(tensors), ...inputs].filter((each) => each instanceof Owner);
    this.device.needOnReplay(...owners);
    const grids = captured.launches.map(({ grid }) => grid);
    const buffers = [
      this.#sections,
      Workspace.of(this.device, stream).buffer,
      ...(this.#rope ? [this.#rope] : []),
    ];
    const versions = buffers.map(({ version }) => version);
    this.device.onReplay(this, (replayed) => {
      this.guard();
      const { plan, batch } = this.#fresh();
      let same = batch.owner === owner;
      for (let i = 0; i < grids.length; i++) same &&= plan.launches[i].grid === grids[i];
      if (!same) {
        throw new PlanError(
          "the plan is of another bucket or layout than the captured one. Fix: replay that bucket's graph.",
        );
      }
      for (let i = 0; i < buffers.length; i++) {
        if (buffers[i].version === versions[i]) continue;
        throw new PlanError("a buffer grew since the capture. Fix: capture again.");
      }
      this.#upload(plan, replayed);
      this.#follow(replayed);
    });
  }
}

/** Later work of `stream` starts after what `other` holds now. */
function after(stream: Stream, other: Stream): void {
  if (other.disposed) return;
  using event = Event.create(stream.device, "plan");
  event.record(other);
  stream.waitFor(event);
}

function longest(batch: Batch): number {
  let positions = 0;
  for (let r = 0; r < batch.requestCount; r++) {
    if (batch.kvLengths[r] > positions) positions = batch.kvLengths[r];
  }
  if (!batch.customPositions) return positions;
  for (let token = 0; token < batch.tokenCount; token++) {
    if (batch.positions[token] >= positions) positions = batch.positions[token] + 1;
  }
  return positions;
}

/** Standard ALiBi slopes of `heads` heads (arXiv 2108.12409, section 3). */
export function alibiSlopes(heads: number): Float32Array {
  if (!(heads >= 1)) throw new OptionError("heads", heads, "1 or more", "pass the query heads.");
  const closest = 2 ** Math.floor(Math.log2(heads));
  const slopes = new Float32Array(heads);
  for (let head = 0; head < heads; head++) {
    const extra = head >= closest;
    const power = extra ? (2 * (head - closest) + 1) / (2 * closest) : (head + 1) / closest;
    slopes[head] = 2 ** (-8 * power);
  }
  return slopes;
}
