import type { Device } from "../device/device.ts";
import type { Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { type Batch, createBatch } from "../kv/batch.ts";
import { raggedLayout } from "../kv/layout.ts";
import type { AttentionState } from "../ops/states.ts";
import { requireTensor, Tensor } from "../tensor/tensor.ts";
import { Attention } from "./attention.ts";
import { maskElements } from "./bind-mask.ts";
import { productOf } from "../variant/projection.ts";
import { requireVariant, type Variant } from "../variant/variant.ts";
import { type AttentionOptions, resolveOptions } from "./options.ts";
import type { VariantInputs } from "./variant/inputs.ts";

/**
 * Options of {@link attend}: those of Attention that do not follow from the tensors, and tensors.
 */
export type AttendOptions = Omit<
  AttentionOptions,
  "queryHeads" | "kvHeads" | "headDim" | "valueDim" | "dtype" | "kvDtype" | "graph" | "layers"
> & {
  alibiSlopes?: Tensor;
  sinkLogits?: Tensor;
  /** A bool for each [query, key], or these bits packed as u8, lowest first. */
  maskBits?: Tensor;
  /** Of fp8 queries, and of fp8 outputs. */
  qScale?: Tensor | number;
  outScale?: Tensor | number;
  kScale?: Tensor;
  vScale?: Tensor;
  variantInputs?: VariantInputs;
  /** Where the output and its log-sum-exp go; left out, new tensors. */
  out?: Tensor;
  lse?: Tensor;
  stream?: Stream;
};

/** Attention objects that are kept for a device and a variant: those used last. */
const keptMost = 64;

/** By device, then by variant (the device itself where there is none), then by other options. */
const made = new WeakMap<Device, WeakMap<object, Map<string, Attention>>>();

/**
 * Attention of one request without a cache or a plan of your own: q [queries, queryHeads, dim] over
 * k, v [keys, kvHeads, dim]. Queues the work and returns the output and its log-sum-exp, NaN where
 * a variant has no softmax. Define a variant once, not in each call. Errors: OptionError for
 * shapes, dtypes and options, CompileError. The first call compiles what a GPU lacks, some seconds
 * that a terminal is told of; `await Attention.create` of the same heads, dims, dtypes and options
 * does that ahead, beside other work.
 */
export function attend(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: AttendOptions = {},
): AttentionState {
  for (const [name, tensor] of Object.entries({ q, k, v })) {
    requireTensor(name, tensor);
    tensor.guard();
    if (tensor.shape.length === 3) continue;
    const fix = "add or select the axis.";
    throw new OptionError(name, tensor.label, "[tokens, heads, dim]", fix);
  }
  if (typeof options !== "object" || options === null)
    throw new OptionError("options", options, "an object of options", "leave it out for none.");
  const { alibiSlopes, sinkLogits, maskBits, kScale, vScale, variantInputs, ...others } = options;
  const { qScale, outScale, stream, out: givenOut, lse: givenLse, ...rest } = others;
  const { device } = q;
  if (givenOut !== undefined) requireTensor("out", givenOut);
  const attention = attentionOf(device, {
    ...(givenOut === undefined ? {} : { outDtype: givenOut.dtype }),
    ...rest,
    queryHeads: q.shape[1],
    kvHeads: k.shape[1],
    // Queries that a variant multiplies have another width than keys.
    headDim: isMultiplied(options.variant) ? k.shape[2] : q.shape[2],
    valueDim: v.shape[2],
    dtype: q.dtype,
    kvDtype: k.dtype,
  });
  const [queries, queryHeads] = q.shape;
  const layout = raggedLayout([0, queries], [0, k.shape[0]]);
  const batch = createBatch({ queryLengths: [queries], kvLengths: [k.shape[0]], layout });
  attention.plan(batch);
  if (maskBits !== undefined) requireWhole(attention, batch, maskBits);
  const { outDtype, outDim } = attention.options;
  const out = givenOut ?? Tensor.empty(device, [queries, queryHeads, outDim], outDtype);
  const lse = givenLse ?? Tensor.empty(device, [queries, queryHeads], "f32");
  const weighs = options.variant?.softmax !== false;
  if (!weighs) (stream ?? device.stream).fill(lse.address, 0xff, lse.elements * 4);
  using maskIndptr = maskBits && Tensor.from(device, [0], [1], "i32");
  attention.run({
    q,
    k,
    v,
    out,
    lse: weighs ? lse : givenLse,
    maskBits,
    maskIndptr,
    alibiSlopes,
    sinkLogits,
    qScale,
    outScale,
    kScale,
    vScale,
    variantInputs,
    stream,
  });
  return { out, lse, lseBase: attention.options.lseBase };
}

/** Whether a hook multiplies queries by a matrix. */
function isMultiplied(variant: Variant | undefined): boolean {
  if (variant === undefined) return false;
  requireVariant("variant", variant);
  const { query } = variant.hooks;
  return query !== undefined && productOf(query) !== undefined;
}

/** A mask of one request has no room to spare: another size is that of something else. */
function requireWhole({ options }: Attention, batch: Batch, maskBits: Tensor): void {
  if (options.mask === "none" || !["u8", "bool"].includes(maskBits.dtype)) return;
  const isPacked = maskBits.dtype === "u8";
  const elements = maskElements(options, batch, 0, isPacked);
  if (maskBits.elements === elements) return;
  const allowed = `${elements} elements, ${isPacked ? "8 pairs" : "a pair"} each`;
  const fix = "pass a bool for each [query, key], or pack these into u8.";
  throw new OptionError("maskBits", maskBits.label, allowed, fix);
}

/** The attention of these options, made where there is none; checked before it is a key. */
function attentionOf(device: Device, options: AttentionOptions): Attention {
  const { variant = device, ...rest } = resolveOptions(options);
  let byVariant = made.get(device);
  if (byVariant === undefined) made.set(device, (byVariant = new WeakMap()));
  let attentions = byVariant.get(variant);
  if (attentions === undefined) byVariant.set(variant, (attentions = new Map()));
  const key = JSON.stringify(rest);
  const attention = attentions.get(key) ?? Attention.createSync(device, options);
  // Those used last stand last.
  attentions.delete(key);
  attentions.set(key, attention);
  if (attentions.size > keptMost) {
    const [oldest, unused] = attentions.entries().next().value!;
    attentions.delete(oldest);
    unused[Symbol.dispose]();
  }
  return attention;
}
