import type { Kernel } from "../device/kernel.ts";
import type { Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { RopeAppendParams } from "../ffi/params.gen.ts";
import { requireBatch } from "../kv/batch.ts";
import {
  bindTurn,
  heldDimMost,
  isLikeEven,
  lanesFor,
  requireGrid,
  requireHeads,
  requirePositions,
  requireRope,
  slotsOf,
  turnsEven,
  unitElements,
} from "../ops/apply-rope.ts";
import type { Rope } from "../ops/rope.ts";
import { isEvenTensor, requireDense } from "../ops/rows.ts";
import { requireInteger, requireNumber, requireOptions } from "../require.ts";
import { dtypeCode, isFloat } from "../tensor/dtype.ts";
import { isInPlace, requireApart, requireDistinct } from "../tensor/overlap.ts";
import { requireTensor, type Tensor } from "../tensor/tensor.ts";
import { Appender, rowsOf } from "./append.ts";
import { PagedCache } from "./paged-cache.ts";
import { appendNames, type AppendTensors } from "./step-appends.ts";

/** What {@link normRopeAppend} reads and writes; heads are [tokens, heads, dim]. */
export interface NormRopeAppendTensors extends Omit<AppendTensors, "planes"> {
  /** Queries, of as many tokens as the batch or more, f32, f16 or bf16. */
  q: Tensor;
  k: Tensor;
  v: Tensor;
  rope: Rope;
  /** i32 [tokens or more], or with sections of the rope [axes, tokens]. */
  positions: Tensor;
  /** [headDim], of q's dtype or f32: queries are normalised by their mean square, then times it. */
  qWeight?: Tensor;
  /** The same of keys. */
  kWeight?: Tensor;
  /** Added to mean squares; default 1e-6. At least 1e-38. */
  eps?: number;
  /** Weights are kept less 1, as Gemma's are. */
  zeroCentered?: boolean;
  /** Takes the queries, of q's shape and dtype; default q itself. */
  out?: Tensor;
}

/**
 * Queues what lies between a layer's projections and its attention, in one launch: queries and
 * keys are normalised by head (QK norm, where they have weights) and turned, keys and values
 * divided by their scales, rounded to the cache's dtype and appended as `cache.append` does.
 * Returns the queries. All in f32, rounded once; views of one product of q, k and v are read where
 * they lie. The attention over such keys has no option `rope`. Errors: OptionError, PlanError for a
 * batch that is stale or of another cache; nothing is written then.
 */
export function normRopeAppend(cache: PagedCache, tensors: NormRopeAppendTensors): Tensor {
  if (!(cache instanceof PagedCache))
    throw new OptionError("cache", cache, "a PagedCache", "make one by PagedCache.create.");
  cache.guard();
  if (typeof tensors !== "object" || tensors === null) {
    const fix = "pass { layer, batch, q, k, v, rope, positions }.";
    throw new OptionError("tensors", tensors, "an object of tensors", fix);
  }
  requireInteger("layer", tensors.layer, 0, cache.options.layers - 1);
  requireBatch(tensors.batch);
  const appender = appenderOf(cache, tensors);
  appender.turn(tensors);
  cache.append(tensors, appender);
  return tensors.out ?? tensors.q;
}

/** Slots that a lane of a GPU takes at most; with fewer tokens more lanes share a token's. */
const turnsMost = 6;

const made = new WeakMap<PagedCache, TurningAppender[]>();
const others = ["q", "rope", "positions", "qWeight", "kWeight", "eps", "zeroCentered", "out"];
const tensorNames = [...appendNames.filter((name) => name !== "planes"), ...others];

/** That of the layer. The names of the tensors are looked at once, not in each step. */
function appenderOf(cache: PagedCache, tensors: NormRopeAppendTensors): TurningAppender {
  const { layer } = tensors;
  let appenders = made.get(cache);
  if (appenders === undefined) made.set(cache, (appenders = []));
  if (appenders[layer] === undefined) {
    requireOptions("tensors", tensors, tensorNames);
    appenders[layer] = new TurningAppender(cache);
  }
  return appenders[layer];
}

/** The appends of one layer that turn what they append. */
class TurningAppender extends Appender {
  readonly #turning: Kernel;
  /** The same of even heads. */
  readonly #turningEven: Kernel;
  readonly #params: RopeAppendParams;
  readonly #valueDim: number;
  /** Of a token: of queries, keys and values. */
  #heads = 0;
  /** Of a lane that holds several of its even heads. */
  #slots = 0;
  #isEven = false;

  constructor({ device, pageSize, planes }: PagedCache) {
    const names = planes.map(({ name }) => name).join(", ");
    if (names !== "key, value") {
      const fix = "turn by applyRope, then append.";
      throw new OptionError("cache", `planes ${names}`, "of planes key and value", fix);
    }
    const params = new RopeAppendParams();
    super(device, pageSize, params.append);
    this.#params = params;
    this.#valueDim = planes[1].dim;
    this.#turning = device.kernel("norm_rope_append");
    this.#turningEven =
      device.kind === "cpu" ? this.#turning : device.kernel("norm_rope_append_even");
  }

  /** Binds what append knows nothing of. Errors: OptionError. */
  turn(tensors: NormRopeAppendTensors): void {
    const { q, k, v, rope, positions, eps = 1e-6, zeroCentered = false, out = q } = tensors;
    requireRope(rope);
    if (rope.device !== this.device)
      throw new OptionError("rope", rope.label, `on ${this.device.label}`, "make one there.");
    const tokens = rowsOf(this.device, tensors.batch);
    requireHeads("q", q, rope, tokens);
    requireHeads("k", k, rope, tokens);
    requireTensor("v", v);
    if (!isFloat(v.dtype))
      throw new OptionError("v", v.label, "of a float dtype", "convert it by .to(dtype).");
    requirePositions(positions, rope, tokens);
    requireNumber("eps", eps, 1e-38, 1);
    if (typeof zeroCentered !== "boolean")
      throw new OptionError("zeroCentered", zeroCentered, "true or false", "give one of them.");
    this.#checkOut(tensors, out);
    this.#bindWeight(0, "qWeight", tensors.qWeight, q, out);
    this.#bindWeight(1, "kWeight", tensors.kWeight, k, out);
    const params = this.#params;
    bindTurn(params.turn, positions, rope);
    params.queriesData = q.address;
    params.queriesStrideToken = q.strides[0];
    params.queriesStrideHead = q.strides[1];
    params.queriesCount = q.shape[1];
    params.queriesDtype = dtypeCode(q.dtype);
    params.queryOutData = out.address;
    params.queryOutStrideToken = out.strides[0];
    params.queryOutStrideHead = out.strides[1];
    params.queryOutDtype = dtypeCode(out.dtype);
    params.eps = eps;
    params.weightOffset = zeroCentered ? 1 : 0;
    const { first, dim, headDim } = rope;
    const units = unitsOf(first) + unitsOf(dim) + unitsOf(headDim - first - dim);
    params.headLanes = lanesFor(Math.max(units, unitsOf(this.#valueDim)));
    this.#heads = q.shape[1] + k.shape[1] + v.shape[1];
    this.#slots = slotsOf(q.shape[1]) + slotsOf(k.shape[1]) + slotsOf(v.shape[1]);
    requireGrid(tensors.batch.paddedTokens * this.#heads * params.headLanes);
    this.#isEven = turnsEven(rope) && this.#areEven(tensors, out);
    if (this.device.capturing) this.device.needOnReplay(q, out, positions, rope);
  }

  override plane(name: string, target: Tensor, source: Tensor, scale: Tensor | undefined): void {
    super.plane(name, target, source, scale);
    this.#isEven &&= isEvenTensor(target, true);
  }

  override launch(stream: Stream): void {
    const { append, headLanes } = this.#params;
    const kernel = this.#isEven ? this.#turningEven : this.#turning;
    const turns = Math.min(Math.max(Math.floor(append.tokenCount / 1024), 1), turnsMost);
    this.#params.turns = turns;
    const groups = this.#isEven ? Math.ceil(this.#slots / turns) : this.#heads;
    const grid = Math.ceil((append.tokenCount * groups * headLanes) / kernel.itemRows);
    this.device.launch(stream, kernel, this.#params, grid);
  }

  /** Whether lanes hold all heads in whole units, as many of a value as of a key. */
  #areEven({ q, k, v, rope, qWeight, kWeight }: NormRopeAppendTensors, out: Tensor): boolean {
    const { headDim } = rope;
    const isWhole = headDim % unitElements === 0 && headDim <= heldDimMost;
    if (!isWhole || this.#valueDim !== headDim || !isEvenTensor(q) || !isEvenTensor(out))
      return false;
    const weights = (qWeight?.address ?? 0) | (kWeight?.address ?? 0);
    return isLikeEven(q, k) && isLikeEven(q, v) && weights % 16 === 0;
  }

  #checkOut({ q, k, v, positions }: NormRopeAppendTensors, out: Tensor): void {
    requireTensor("out", out);
    requireDistinct("out", out);
    if (out !== q) {
      out.requireOn(this.device, "out");
      const isLike = out.shape.join() === q.shape.join() && out.dtype === q.dtype;
      if (!isLike || out.strides[2] !== 1) {
        const allowed = `a ${q.dtype} tensor [${q.shape.join(", ")}] with innermost stride 1`;
        throw new OptionError("out", out.label, allowed, "leave it out to change q itself.");
      }
      if (!isInPlace(out, q)) requireApart("out", out, "q, or q itself", q);
    }
    const option = out === q ? "q" : "out";
    requireApart(option, out, "k", k);
    requireApart(option, out, "v", v);
    requireApart(option, out, "positions", positions);
  }

  #bindWeight(
    side: number,
    option: string,
    weight: Tensor | undefined,
    x: Tensor,
    out: Tensor,
  ): void {
    this.#params.setWeights(side, weight?.address ?? 0);
    if (weight === undefined) return;
    requireDense(option, weight, this.device, [x.shape[2]], [x.dtype, "f32"]);
    requireApart("out", out, option, weight);
    this.#params.setWeightDtypes(side, dtypeCode(weight.dtype));
    if (this.device.capturing) this.device.needOnReplay(weight);
  }
}

/** Units of so many elements, which a lane of a GPU holds. */
function unitsOf(elements: number): number {
  return Math.ceil(elements / unitElements);
}
