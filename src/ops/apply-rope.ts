import { requireStream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { RopeParams, type TurnParams } from "../ffi/params.gen.ts";
import { requireOptions } from "../require.ts";
import { dtypeCode } from "../tensor/dtype.ts";
import { requireApart, requireDistinct } from "../tensor/overlap.ts";
import { requireTensor, type Tensor } from "../tensor/tensor.ts";
import { Rope } from "./rope.ts";
import { isEvenTensor, numbers, requireDense, type RowOptions } from "./rows.ts";

/** Elements that a lane of a GPU holds (kernels/rope/unit.h). */
export const unitElements = 16;
/** Lanes that may share a head. */
const lanesMost = 32;
/** Longest head that lanes hold at once. */
export const heldDimMost = lanesMost * unitElements;
/** Even heads of a token that a lane of a GPU holds (kernels/rope/rope.cu). */
const heldHeads = 2;

const params = new RopeParams();

/**
 * Queues the rotation of q and k, each [tokens, heads, headDim], in place: element pairs of each
 * head by the angles of its token's position. `positions` is i32 [tokens], or with
 * `rope.options.sections` [axes, tokens]; one row then counts for all axes. f32, f16 or bf16 with
 * any strides but 1 within a head, such as views of one product [tokens, heads of q, k and v]; k
 * may be left out. Computed in f32 and rounded once, angles within 1e-5 at every position. Keys
 * that turned here are cached turned: the attention over them has no option `rope`. Errors:
 * OptionError.
 */
export function applyRope(
  q: Tensor,
  k: Tensor | undefined,
  positions: Tensor,
  rope: Rope,
  options: RowOptions = {},
): void {
  requireOptions("options", options, ["rowCount", "stream"]);
  requireRope(rope);
  const { device } = rope;
  const { rowCount, stream = device.stream } = options;
  if (rowCount !== undefined) requireDense("rowCount", rowCount, device, [1], ["i32"]);
  requireStream(stream, device);
  requireHeads("q", q, rope, 0);
  requireDistinct("q", q);
  const tokens = q.shape[0];
  params.setHeadsCount(1, 0);
  if (k !== undefined) {
    requireHeads("k", k, rope, tokens);
    requireTokens("k", k, tokens);
    requireDistinct("k", k);
    requireApart("k", k, "q", q);
    bindHeads(1, k);
  }
  requirePositions(positions, rope, tokens);
  requireTokens("positions", positions, tokens);
  requireApart("positions", positions, "q", q);
  if (rowCount !== undefined) requireApart("rowCount", rowCount, "q", q);
  if (k !== undefined) {
    requireApart("positions", positions, "k", k);
    if (rowCount !== undefined) requireApart("rowCount", rowCount, "k", k);
  }
  bindHeads(0, q);
  bindTurn(params.turn, positions, rope);
  params.live = rowCount?.address ?? 0;
  params.tokenCount = tokens;
  params.headLanes = lanesFor(Math.ceil(rope.dim / unitElements));
  const queries = q.shape[1];
  const keys = k?.shape[1] ?? 0;
  const heads = queries + keys;
  if (tokens * heads === 0) return;
  if (device.capturing) {
    device.needOnReplay(q, positions, rope);
    if (k !== undefined) device.needOnReplay(k);
    if (rowCount !== undefined) device.needOnReplay(rowCount);
  }
  const isEven = turnsEven(rope) && isEvenTensor(q) && (k === undefined || isLikeEven(q, k));
  const kernel = device.kernel(isEven ? "apply_rope_even" : "apply_rope");
  const lanes = requireGrid(
    tokens * (isEven ? slotsOf(queries) + slotsOf(keys) : heads) * params.headLanes,
  );
  device.launch(stream, kernel, params, Math.ceil(lanes / kernel.itemRows));
}

/** Throws an OptionError unless `rope` is one, and a DisposedError once it was disposed. */
export function requireRope(rope: Rope): void {
  if (!(rope instanceof Rope))
    throw new OptionError("rope", rope, "a Rope", "make one by Rope.create(device, headDim).");
  rope.guard();
}

/** Throws an OptionError unless a tensor holds heads that `rope` turns, of enough tokens. */
export function requireHeads(option: string, x: Tensor, rope: Rope, tokens: number): void {
  requireTensor(option, x);
  x.requireOn(rope.device, option);
  const { shape, strides, dtype, label } = x;
  const isHeads = shape.length === 3 && shape[1] >= 1 && shape[2] === rope.headDim;
  const fits = isHeads && strides[2] === 1;
  if (!fits || shape[0] < tokens) {
    const allowed = `[${tokens} or more, heads, ${rope.headDim}] with innermost stride 1`;
    throw new OptionError(option, label, allowed, "reshape or copy it.");
  }
  if (numbers.includes(dtype)) return;
  throw new OptionError(option, label, `of ${numbers.join(", ")}`, "convert it by .to(dtype).");
}

/** Throws an OptionError unless `positions` holds those of so many tokens or more. */
export function requirePositions(positions: Tensor, { device, options }: Rope, tokens: number) {
  requireTensor("positions", positions);
  positions.requireOn(device, "positions");
  const { shape, strides, dtype, label } = positions;
  const axes = options.sections?.length;
  const isRow = shape.length === 1 || (shape.length === 2 && shape[0] === axes);
  const count = shape[shape.length - 1];
  const isDense = strides[strides.length - 1] === 1 || count <= 1;
  if (isRow && count >= tokens && isDense && dtype === "i32") return;
  const more = axes === undefined ? "" : ` or [${axes}, ${tokens}]`;
  const allowed = `an i32 tensor [${tokens}]${more} with innermost stride 1`;
  throw new OptionError("positions", label, allowed, "give each token its position.");
}

/** Throws an OptionError unless a tensor's tokens are so many. */
function requireTokens(option: string, { shape, label }: Tensor, tokens: number): void {
  if (shape[option === "k" ? 0 : shape.length - 1] === tokens) return;
  throw new OptionError(option, label, `of ${tokens} tokens, as q`, "slice it.");
}

/** Writes what turns, and by what, into the parameters. */
export function bindTurn(turn: TurnParams, positions: Tensor, rope: Rope): void {
  turn.rates = rope.rates;
  turn.axes = positions.shape.length === 2 ? rope.axes : 0;
  turn.positions = positions.address;
  turn.axisStride = positions.strides[0];
  turn.first = rope.first;
  turn.dim = rope.dim;
  turn.interleaved = rope.options.interleaved ? 1 : 0;
  turn.factor = rope.factor;
}

/** Whether all that turns by it on a GPU is whole units of a lane. */
export function turnsEven({ device, first, dim }: Rope): boolean {
  const isWhole = first % unitElements === 0 && dim % unitElements === 0;
  return device.kind !== "cpu" && isWhole && dim <= heldDimMost;
}

/** Whether these are even heads of x's dtype. */
export function isLikeEven(x: Tensor, heads: Tensor): boolean {
  return heads.dtype === x.dtype && isEvenTensor(heads);
}

/** Lanes, times those of a head, that hold so many even heads of one side of a token. */
export function slotsOf(heads: number): number {
  return Math.ceil(heads / heldHeads);
}

/** Lanes for so many units of a head: a power of two. */
export function lanesFor(units: number): number {
  return Math.min(lanesMost, 2 ** Math.ceil(Math.log2(units)));
}

/** Throws an OptionError for more lanes than a grid has. */
export function requireGrid(lanes: number): number {
  if (lanes < 2 ** 31) return lanes;
  throw new OptionError("q", `${lanes} lanes`, "less than 2^31", "split the tokens.");
}

function bindHeads(i: number, { address, shape, strides, dtype }: Tensor): void {
  params.setHeadsData(i, address);
  params.setHeadsStrideToken(i, strides[0]);
  params.setHeadsStrideHead(i, strides[1]);
  params.setHeadsCount(i, shape[1]);
  params.setHeadsDtype(i, dtypeCode(dtype));
}
