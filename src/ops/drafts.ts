import { requireStream, type Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { DraftsParams } from "../ffi/params.gen.ts";
import { requireOptions } from "../require.ts";
import { type DType, dtypeCode } from "../tensor/dtype.ts";
import { requireApart } from "../tensor/overlap.ts";
import { requireTensor, Tensor } from "../tensor/tensor.ts";
import {
  addressOf,
  checkPerRow,
  numberOf,
  type PerRow,
  positions,
  rowDtypes,
  seeds,
  tensorsOf,
} from "./token-rows.ts";

/** Drafts of each row, and where what stands of them goes. */
export interface DraftOptions {
  /**
   * i32 [rows, drafts]: the node that each draft follows, 0 for the sequence's last token, i + 1
   * for draft i, which comes before it. Default: each follows the one before it, a chain.
   */
  parents?: Tensor;
  /** i32 [rows]: how many drafts a row has, the first ones; default all. */
  counts?: Tensor;
  /** Takes the tokens: i32 [rows, drafts + 1]. */
  out?: Tensor;
  /** Takes how many drafts stand: i32 [rows]. */
  accepted?: Tensor;
  /** Takes which: i32 [rows, drafts], -1 behind the last. */
  path?: Tensor;
  /** Takes sampleStatus of each row: i32 [rows]. */
  status?: Tensor;
  /** Default: the device's own. */
  stream?: Stream;
}

/** Drafts that are verified by chance. */
export interface VerifyOptions extends DraftOptions {
  /** 0 to 2^53, or i64 [rows]. Default 0. */
  seed?: PerRow;
  /** The place of the first draft in its sequence, as sample's; default: the row's number. */
  position?: PerRow;
}

/** What stands of the drafts. */
export interface Verified {
  /** i32 [rows, drafts + 1]: the accepted drafts, one token more, then -1. */
  readonly tokens: Tensor;
  /** i32 [rows]: how many drafts are accepted. */
  readonly accepted: Tensor;
  /** i32 [rows, drafts]: which, then -1; undefined unless it was asked for. */
  readonly path: Tensor | undefined;
}

const names = ["parents", "counts", "out", "accepted", "path", "status", "stream"];
const params = new DraftsParams();

/**
 * Queues the choice of the drafts that stand by speculative sampling (arXiv 2302.01318; trees of
 * drafts that were drawn by chance: arXiv 2305.09781), and of one token more: together distributed
 * as if the target had drawn them. `drafts` i32 [rows, drafts]; `targetProbs` [rows, drafts + 1,
 * vocabulary], the target's probabilities after the last token and after each draft;
 * `draftProbs` [rows, drafts, vocabulary], those that children of a node were drawn from. Of
 * drafts that were not drawn by chance: `sample` from the target's rows, then `matchDrafts`.
 * Rows are independent and reproducible, as sample's. Its noise is not sample's: drafts may be
 * drawn with the same seed and position, but siblings with seeds that differ. Errors: OptionError.
 */
export function verifyDrafts(
  drafts: Tensor,
  targetProbs: Tensor,
  draftProbs: Tensor,
  options: VerifyOptions = {},
): Verified {
  requireOptions("options", options, [...names, "seed", "position"]);
  const [rows, count] = checkDrafts(drafts, options);
  const { device } = drafts;
  checkProbabilities("targetProbs", targetProbs, drafts, count + 1, undefined);
  const vocabulary = targetProbs.shape[2];
  checkProbabilities("draftProbs", draftProbs, drafts, count, vocabulary);
  const { seed = 0, position } = options;
  checkPerRow("seed", seed, device, rows, seeds);
  if (position !== undefined) checkPerRow("position", position, device, rows, positions);
  const read = [targetProbs, draftProbs, ...tensorsOf(seed, position)];
  params.targets = targetProbs.address;
  params.drafts = draftProbs.address;
  params.targetStride = targetProbs.strides[0];
  params.targetNodeStride = targetProbs.strides[1];
  params.draftStride = draftProbs.strides[0];
  params.draftNodeStride = draftProbs.strides[1];
  params.vocabulary = vocabulary;
  params.targetDtype = dtypeCode(targetProbs.dtype);
  params.draftDtype = dtypeCode(draftProbs.dtype);
  params.seeds = addressOf(seed);
  params.seed = numberOf(seed, 0);
  params.positions = addressOf(position);
  params.position = numberOf(position ?? 0, 0);
  params.isPositionRow = position === undefined ? 1 : 0;
  return launch("verify_drafts", drafts, read, options);
}

/**
 * Queues the choice of the drafts that are the target's own tokens: from the last token on, a draft
 * stands if it is the target's token after the node that it follows; the token after the last that
 * stands is added. `drafts` i32 [rows, drafts], `targets` i32 [rows, drafts + 1], by argmax or by
 * sample: then what stands is distributed as the target's. Errors: OptionError.
 */
export function matchDrafts(drafts: Tensor, targets: Tensor, options: DraftOptions = {}): Verified {
  requireOptions("options", options, names);
  const [rows, count] = checkDrafts(drafts, options);
  checkDense("targets", targets, drafts, [rows, count + 1]);
  params.targets = targets.address;
  params.drafts = params.seeds = params.positions = 0;
  return launch("match_drafts", drafts, [targets], options);
}

/** Returns [rows, drafts]. */
function checkDrafts(drafts: Tensor, options: DraftOptions): readonly [number, number] {
  requireTensor("drafts", drafts);
  drafts.guard();
  const { shape } = drafts;
  const [rows, count] = shape;
  checkDense("drafts", drafts, drafts, shape.length === 2 ? shape : [rows ?? 0, 0]);
  const { parents, counts, out, accepted, path, status, stream } = options;
  if (parents !== undefined) checkDense("parents", parents, drafts, shape);
  if (counts !== undefined) checkDense("counts", counts, drafts, [rows]);
  if (out !== undefined) checkDense("out", out, drafts, [rows, count + 1]);
  if (accepted !== undefined) checkDense("accepted", accepted, drafts, [rows]);
  if (path !== undefined) checkDense("path", path, drafts, shape);
  if (status !== undefined) checkDense("status", status, drafts, [rows]);
  if (stream !== undefined) requireStream(stream, drafts.device);
  return [rows, count];
}

/** Throws an OptionError unless a tensor is dense i32 of this shape. */
function checkDense(option: string, tensor: Tensor, drafts: Tensor, shape: readonly number[]) {
  requireTensor(option, tensor);
  tensor.requireOn(drafts.device, option);
  const isShaped = tensor.shape.join() === shape.join() && tensor.shape.length === shape.length;
  if (tensor.dtype === "i32" && isShaped && tensor.contiguous) return;
  const allowed = `a dense i32 tensor ${option === "drafts" ? "[rows, drafts]" : `[${shape}]`}`;
  throw new OptionError(option, tensor.label, allowed, "reshape or copy it.");
}

function checkProbabilities(
  option: string,
  tensor: Tensor,
  drafts: Tensor,
  nodes: number,
  vocabulary: number | undefined,
): void {
  requireTensor(option, tensor);
  tensor.requireOn(drafts.device, option);
  const { shape, strides, dtype } = tensor;
  const length = vocabulary ?? shape[2];
  const wanted = [drafts.shape[0], nodes, length];
  const isShaped = shape.length === 3 && shape.join() === wanted.join();
  const isRow = isShaped && length >= 1 && length <= 500_000 && (length === 1 || strides[2] === 1);
  if (isRow && strides[0] >= 0 && strides[1] >= 0 && rowDtypes.includes(dtype)) return;
  const what = `[${drafts.shape[0]}, ${nodes}, ${vocabulary ?? "vocabulary"}]`;
  const allowed = `a ${rowDtypes.join(" or ")} tensor ${what} with innermost stride 1`;
  throw new OptionError(option, tensor.label, allowed, "give a row for each node.");
}

function launch(
  name: string,
  drafts: Tensor,
  others: readonly Tensor[],
  options: DraftOptions,
): Verified {
  const { device } = drafts;
  const [rows, count] = drafts.shape;
  const { parents, counts, path, status, stream = device.stream } = options;
  const read = [drafts, ...others, ...tensorsOf(parents, counts)];
  checkWritten(read, options);
  const i32: DType = "i32";
  const tokens = options.out ?? Tensor.empty(device, [rows, count + 1], i32, "verified drafts");
  const accepted = options.accepted ?? Tensor.empty(device, [rows], i32, "accepted drafts");
  if (rows === 0) return { tokens, accepted, path };
  params.tokens = drafts.address;
  params.parents = addressOf(parents);
  params.counts = addressOf(counts);
  params.out = tokens.address;
  params.path = addressOf(path);
  params.accepted = accepted.address;
  params.status = addressOf(status);
  params.rowCount = rows;
  params.draftCount = count;
  if (device.capturing) device.needOnReplay(...read, tokens, accepted, ...tensorsOf(path, status));
  const kernel = device.kernel(name);
  device.launch(stream, kernel, params, Math.ceil(rows / kernel.itemRows));
  return { tokens, accepted, path };
}

/** What is written has no byte in common with anything else. */
function checkWritten(
  read: readonly Tensor[],
  { out, accepted, path, status }: DraftOptions,
): void {
  const written = Object.entries({ out, accepted, path, status });
  for (const [i, [option, tensor]] of written.entries()) {
    if (tensor === undefined) continue;
    const later = written.slice(i + 1).map(([, other]) => other);
    for (const other of [...read, ...tensorsOf(...later)])
      requireApart(option, tensor, "the other tensors", other);
  }
}
