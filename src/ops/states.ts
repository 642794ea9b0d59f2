import { requireStream, type Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { FB_STATES, MergeParams } from "../ffi/params.gen.ts";
import { requireOptions } from "../require.ts";
import { type DType, dtypeCode, isFloat, requireDType } from "../tensor/dtype.ts";
import { isInPlace, requireApart, requireDistinct } from "../tensor/overlap.ts";
import { requireTensor, Tensor } from "../tensor/tensor.ts";

/** Base of a log-sum-exp. */
export type LseBase = "e" | "2";

/** The state of an attention over part of the keys: normalised output and its log-sum-exp. */
export interface AttentionState {
  /** [tokens, heads, dim], any float dtype. */
  out: Tensor;
  /** f32 [tokens, heads]; -inf where no key was seen. */
  lse: Tensor;
  lseBase: LseBase;
}

/** States in one tensor: as many of each token, or as many as an indptr says. */
export interface StackedStates {
  /** [tokens, states, heads, dim], or with an indptr [states, heads, dim]. */
  out: Tensor;
  /** f32 [tokens, states, heads], or with an indptr [states, heads]. */
  lse: Tensor;
  lseBase: LseBase;
  /** i32 [tokens + 1]: token t has the states from indptr[t] on to indptr[t + 1]. */
  indptr?: Tensor;
}

/** Options of {@link mergeStates}. */
export interface MergeOptions {
  /** Of a new output; by default that of the states. */
  dtype?: DType;
  /** Where the merged state goes: the tensors of a listed state, or others. Default: new ones. */
  out?: Tensor;
  lse?: Tensor;
  /** bool or u8 [tokens]: what is of a token with 0 is left alone. Needs out and lse. */
  mask?: Tensor;
  stream?: Stream;
}

/** Most elements of a head: a row fits a thread's scratch memory many times. */
const dimMost = 65536;

const params = new MergeParams();

/**
 * Merges attention states over disjoint keys by log-sum-exp, in the order given (FlashInfer, MLSys
 * 2025, section 2.2): a list of up to any number, those of up to eight where they lie, or states
 * in one tensor. All have one shape, dtype and LSE base. Returns the merged state. Errors:
 * OptionError.
 */
export function mergeStates(
  states: readonly AttentionState[] | StackedStates,
  options: MergeOptions = {},
): AttentionState {
  requireOptions("options", options, ["dtype", "out", "lse", "mask", "stream"]);
  const isList = Array.isArray(states);
  const given = isList ? checkedList(states) : checkedStack(states as StackedStates);
  const { device } = given.out;
  const stream = options.stream ?? device.stream;
  requireStream(stream, device);
  const mask = maskOf(given, options);
  const merged = mergedOf(given, options);
  using room = isList && states.length > FB_STATES ? stackOf(states, stream) : undefined;
  if (room !== undefined) writeStack(room.stacked);
  else if (isList) writeList(states);
  else writeStack(given);
  params.mergedOut = merged.out.address;
  params.mergedLse = merged.lse.address;
  [params.mergedStrideToken, params.mergedStrideHead] = merged.out.strides;
  [params.mergedLseStrideToken, params.mergedLseStrideHead] = merged.lse.strides;
  params.mask = mask?.address ?? 0;
  params.rowCount = given.tokens * given.heads;
  params.heads = given.heads;
  params.dim = given.dim;
  params.inDtype = dtypeCode(given.out.dtype);
  params.outDtype = dtypeCode(merged.out.dtype);
  params.logBase = given.lseBase === "2" ? Math.LN2 : 1;
  const read = room === undefined ? given.read : [];
  if (device.capturing)
    device.needOnReplay(merged.out, merged.lse, ...read, ...(mask === undefined ? [] : [mask]));
  const kernel = device.kernel("merge_states");
  device.launch(stream, kernel, params, Math.ceil(params.rowCount / kernel.itemRows));
  return { ...merged, lseBase: given.lseBase };
}

/** States that were checked: `out` is the first one's, or that of all. */
interface Given extends StackedStates {
  readonly tokens: number;
  readonly heads: number;
  readonly dim: number;
  /** All tensors. */
  readonly read: readonly Tensor[];
}

function checkedList(states: readonly AttentionState[]): Given {
  if (states.length === 0)
    throw new OptionError("states", states, "a list of one state or more", "pass states.");
  for (let i = 0; i < states.length; i++) requireState(`states[${i}]`, states[i]);
  const [first] = states;
  for (const [i, state] of states.entries()) checkState(i, state, first);
  const [tokens, heads, dim] = first.out.shape;
  const read = states.flatMap(({ out, lse }) => [out, lse]);
  return { ...first, indptr: undefined, tokens, heads, dim, read };
}

function checkedStack(states: StackedStates): Given {
  requireState("states", states);
  const { out, lse, indptr } = states;
  lse.requireOn(out.device, "states.lse");
  indptr?.requireOn(out.device, "states.indptr");
  const axes = indptr === undefined ? 4 : 3;
  const { shape } = out;
  if (shape.length !== axes || !isFloat(out.dtype) || out.strides[axes - 1] !== 1) {
    const lead = indptr === undefined ? "tokens, states" : "states";
    const allowed = `floats [${lead}, heads, dim] with innermost stride 1`;
    throw new OptionError("states.out", out.label, allowed, "reshape or copy it.");
  }
  const [heads, dim] = shape.slice(axes - 2);
  requireDim("states.out", out, dim);
  if (lse.dtype !== "f32" || lse.shape.join() !== shape.slice(0, axes - 1).join()) {
    const allowed = `an f32 tensor [${shape.slice(0, axes - 1).join(", ")}]`;
    throw new OptionError("states.lse", lse.label, allowed, "pass the LSE of the same states.");
  }
  if (indptr === undefined) return { ...states, tokens: shape[0], heads, dim, read: [out, lse] };
  const isIndptr = indptr.dtype === "i32" && indptr.shape.length === 1 && indptr.contiguous;
  if (!isIndptr || indptr.elements === 0) {
    const fix = "give one entry per token and one more for the end.";
    throw new OptionError("states.indptr", indptr.label, "an i32 tensor [tokens + 1]", fix);
  }
  checkIndptr(indptr, shape[0]);
  return { ...states, tokens: indptr.elements - 1, heads, dim, read: [out, lse, indptr] };
}

/** The CPU device looks at what a kernel would follow; a GPU stays within the states. */
function checkIndptr(indptr: Tensor, states: number): void {
  if (!indptr.device.checksContents || indptr.device.capturing) return;
  let before = 0;
  for (const [i, entry] of new Int32Array(indptr.toBytes().buffer).entries()) {
    if (entry < before || entry > states) {
      const fix = "make indptr a running sum of the tokens' states.";
      throw new OptionError(`states.indptr[${i}]`, entry, `${before} to ${states}`, fix);
    }
    before = entry;
  }
}

/** Where the merged state goes. Errors: OptionError. */
function mergedOf(given: Given, { dtype, out, lse }: MergeOptions): { out: Tensor; lse: Tensor } {
  const { tokens, heads, dim } = given;
  const { device } = given.out;
  const outDtype = dtype ?? out?.dtype ?? given.out.dtype;
  requireDType("dtype", outDtype);
  if (!isFloat(outDtype)) throw new OptionError("dtype", outDtype, "a float dtype", "use f32.");
  if (out !== undefined) requireTarget("out", out, given, [tokens, heads, dim], outDtype);
  if (lse !== undefined) requireTarget("lse", lse, given, [tokens, heads], "f32");
  if (out !== undefined && lse !== undefined) requireApart("out", out, "lse", lse);
  return {
    out: out ?? Tensor.empty(device, [tokens, heads, dim], outDtype),
    lse: lse ?? Tensor.empty(device, [tokens, heads], "f32"),
  };
}

function requireTarget(
  option: "out" | "lse",
  target: Tensor,
  given: Given,
  shape: readonly number[],
  dtype: DType,
): void {
  requireTensor(option, target);
  target.requireOn(given.out.device, option);
  const isDense = option === "lse" || target.strides[2] === 1 || shape[2] === 1;
  if (target.dtype !== dtype || target.shape.join() !== shape.join() || !isDense) {
    const allowed = `a ${dtype} tensor [${shape.join(", ")}] with innermost stride 1`;
    throw new OptionError(option, target.label, allowed, "match the states.");
  }
  requireDistinct(option, target);
  // Each row is read before it is written, and by nobody else; an indptr names other tokens' rows.
  for (const [i, tensor] of given.read.entries())
    if (given.indptr !== undefined || !isInPlace(target, tensor))
      requireApart(option, target, `tensor ${i} of states`, tensor);
}

function maskOf({ out, tokens }: Given, options: MergeOptions): Tensor | undefined {
  const { mask } = options;
  if (mask === undefined) return undefined;
  requireTensor("mask", mask);
  mask.requireOn(out.device, "mask");
  const isMask = (mask.dtype === "bool" || mask.dtype === "u8") && mask.contiguous;
  if (!isMask || mask.shape.join() !== `${tokens}`) {
    const fix = "give a bool for each token.";
    throw new OptionError("mask", mask.label, `a bool or u8 tensor [${tokens}]`, fix);
  }
  if (options.out !== undefined && options.lse !== undefined) return mask;
  const fix = "pass out and lse, such as those of the first state.";
  throw new OptionError("mask", mask.label, "left out without out and lse", fix);
}

function writeList(states: readonly AttentionState[]): void {
  for (const [i, { out, lse }] of states.entries()) {
    params.setStatesOut(i, out.address);
    params.setStatesLse(i, lse.address);
    params.setStatesStrideToken(i, out.strides[0]);
    params.setStatesStrideHead(i, out.strides[1]);
    params.setStatesLseStrideToken(i, lse.strides[0]);
    params.setStatesLseStrideHead(i, lse.strides[1]);
  }
  params.stateStride = params.lseStateStride = 0;
  params.indptr = 0;
  params.stateCount = states.length;
}

function writeStack({ out, lse, indptr }: StackedStates): void {
  const isRagged = indptr !== undefined;
  const at = isRagged ? 0 : 1;
  params.setStatesOut(0, out.address);
  params.setStatesLse(0, lse.address);
  params.setStatesStrideToken(0, isRagged ? 0 : out.strides[0]);
  params.setStatesLseStrideToken(0, isRagged ? 0 : lse.strides[0]);
  params.setStatesStrideHead(0, out.strides[at + 1]);
  params.setStatesLseStrideHead(0, lse.strides[at + 1]);
  // One state has no neighbours, and 0 would say that states lie apart.
  params.stateStride = out.strides[at] || 1;
  params.lseStateStride = lse.strides[at];
  params.indptr = indptr?.address ?? 0;
  params.stateCount = out.shape[at];
}

/** A copy of many states in one tensor, which lives as long as what is queued. */
function stackOf(states: readonly AttentionState[], stream: Stream) {
  const [{ out: first, lseBase }] = states;
  const [tokens, heads, dim] = first.shape;
  const count = states.length;
  const out = Tensor.empty(first.device, [tokens, count, heads, dim], first.dtype);
  const lse = Tensor.empty(first.device, [tokens, count, heads], "f32");
  for (const [i, state] of states.entries()) {
    out.select(1, i).copyFrom(state.out, stream);
    lse.select(1, i).copyFrom(state.lse, stream);
  }
  const dispose = () => {
    out[Symbol.dispose]();
    lse[Symbol.dispose]();
  };
  return { stacked: { out, lse, lseBase }, [Symbol.dispose]: dispose };
}

function requireState(name: string, state: StackedStates | undefined): void {
  if (typeof state !== "object" || state === null)
    throw new OptionError(name, state, "{ out, lse, lseBase }", "pass what attend returned.");
  requireTensor(`${name}.out`, state.out);
  requireTensor(`${name}.lse`, state.lse);
  if (state.lseBase === "e" || state.lseBase === "2") return;
  throw new OptionError(`${name}.lseBase`, state.lseBase, '"e" or "2"', "say which it is.");
}

function checkState(index: number, state: AttentionState, first: AttentionState): void {
  const { out, lse, lseBase } = state;
  const name = `states[${index}]`;
  out.requireOn(first.out.device, `${name}.out`);
  lse.requireOn(first.out.device, `${name}.lse`);
  if (lseBase !== first.lseBase) {
    const fix = "run both with one lseBase.";
    throw new OptionError(`${name}.lseBase`, lseBase, `"${first.lseBase}", as the first`, fix);
  }
  const same = out.shape.join() === first.out.shape.join() && out.dtype === first.out.dtype;
  requireDim(`${name}.out`, out, out.shape[2]);
  const isDense = out.strides[2] === 1 || out.shape[2] === 1;
  if (out.shape.length !== 3 || !same || !isFloat(out.dtype) || !isDense) {
    const allowed = `[tokens, heads, dim] like ${first.out.label}, innermost stride 1`;
    throw new OptionError(`${name}.out`, out.label, allowed, "merge states of one shape.");
  }
  if (lse.dtype === "f32" && lse.shape.join() === out.shape.slice(0, 2).join()) return;
  const allowed = `an f32 tensor [${out.shape.slice(0, 2).join(", ")}]`;
  throw new OptionError(`${name}.lse`, lse.label, allowed, "pass the LSE of the same run.");
}

function requireDim(option: string, out: Tensor, dim: number): void {
  if (!(dim > dimMost)) return;
  const fix = "merge narrower heads.";
  throw new OptionError(option, out.label, `heads of at most ${dimMost} elements`, fix);
}
