import { requireStream, type Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { MergeParams } from "../ffi/params.gen.ts";
import { requireOptions } from "../require.ts";
import { type DType, dtypeCode, isFloat, requireDType } from "../tensor/dtype.ts";
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

/** Most elements of a head: a row fits a thread's scratch memory many times. */
const dimMost = 65536;

const params = new MergeParams();

/**
 * Merges attention states over disjoint keys by log-sum-exp, in the order given (FlashInfer, MLSys
 * 2025, section 2.2). All states have one shape, dtype and LSE base. Returns the merged state; its
 * output is `dtype`, by default that of the states. Errors: OptionError.
 */
export function mergeStates(
  states: readonly AttentionState[],
  options: { dtype?: DType; stream?: Stream } = {},
): AttentionState {
  if (!Array.isArray(states) || states.length === 0)
    throw new OptionError("states", states, "a list of one state or more", "pass states.");
  requireOptions("options", options, ["dtype", "stream"]);
  for (let i = 0; i < states.length; i++) requireState(`states[${i}]`, states[i]);
  const first: AttentionState = states[0];
  for (const [i, state] of states.entries()) checkState(i, state, first);
  const { device, shape, dtype } = first.out;
  const { dtype: outDtype = dtype } = options;
  requireDType("dtype", outDtype);
  if (!isFloat(outDtype)) throw new OptionError("dtype", outDtype, "a float dtype", "use f32.");
  const [tokens, heads, dim] = shape;
  const stream = options.stream ?? device.stream;
  requireStream(stream, device);
  using stacked = Tensor.empty(device, [states.length, tokens, heads, dim], dtype);
  using lses = Tensor.empty(device, [states.length, tokens, heads], "f32");
  for (const [i, state] of states.entries()) {
    stacked.select(0, i).copyFrom(state.out, stream);
    lses.select(0, i).copyFrom(state.lse, stream);
  }
  const out = Tensor.empty(device, [tokens, heads, dim], outDtype);
  const lse = Tensor.empty(device, [tokens, heads], "f32");
  params.states = stacked.address;
  params.lses = lses.address;
  params.out = out.address;
  params.lse = lse.address;
  params.stateStride = stacked.strides[0];
  params.lseStride = lses.strides[0];
  params.stateCount = states.length;
  params.rowCount = tokens * heads;
  params.dim = dim;
  params.inDtype = dtypeCode(dtype);
  params.outDtype = dtypeCode(outDtype);
  params.logBase = first.lseBase === "2" ? Math.LN2 : 1;
  if (device.capturing) device.needOnReplay(out, lse);
  const kernel = device.kernel("merge_states");
  device.launch(stream, kernel, params, Math.ceil(params.rowCount / kernel.itemRows));
  return { out, lse, lseBase: first.lseBase };
}

function requireState(name: string, state: AttentionState | undefined): void {
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
  requireTensor(`${name}.out`, out);
  requireTensor(`${name}.lse`, lse);
  out.requireOn(first.out.device, `${name}.out`);
  lse.requireOn(first.out.device, `${name}.lse`);
  if (lseBase !== first.lseBase) {
    const fix = "run both with one lseBase.";
    throw new OptionError(`${name}.lseBase`, lseBase, `"${first.lseBase}", as the first`, fix);
  }
  const same = out.shape.join() === first.out.shape.join() && out.dtype === first.out.dtype;
  if (out.shape[2] > dimMost) {
    const fix = "merge narrower heads.";
    throw new OptionError(`${name}.out`, out.label, `heads of at most ${dimMost} elements`, fix);
  }
  if (out.shape.length !== 3 || !same || !isFloat(out.dtype)) {
    const allowed = `[tokens, heads, dim] like ${first.out.label}`;
    throw new OptionError(`${name}.out`, out.label, allowed, "merge states of one shape.");
  }
  if (lse.dtype === "f32" && lse.shape.join() === out.shape.slice(0, 2).join()) return;
  const allowed = `an f32 tensor [${out.shape.slice(0, 2).join(", ")}]`;
  throw new OptionError(`${name}.lse`, lse.label, allowed, "pass the LSE of the same run.");
}
