/** Variants that are known by a name, each in a few lines of the variant language. */
import { OptionError } from "../errors.ts";
import { requireInteger, requireList, requireNumber, requireOptions } from "../require.ts";
import { addBand, documentAt } from "./bands.ts";
import { capped, type Pairing, turned } from "./builtin.ts";
import { defineVariant } from "./define.ts";
import type { F32 } from "./values.ts";
import type { Variant } from "./variant.ts";

export { compose } from "./compose.ts";
export { dequantise } from "./dequantise.ts";

const maxInt32 = 2 ** 31 - 1;

/**
 * Weights are sigmoid(logit + bias), without a softmax (FlashSigmoid, arXiv 2409.04431).
 *
 * Scalar: bias, default -log of the usual number of keys.
 */
export function flashSigmoid(options: { bias: number }): Variant {
  requireOptions("options", options, ["bias"]);
  return defineVariant({
    name: "FlashSigmoid",
    scalars: { bias: { type: "f32", fallback: options.bias } },
    logits: (x, { bias }) => x.add(bias).sigmoid(),
    softmax: false,
  });
}

/** Logits limited to -cap and cap by tanh (Gemma 2, arXiv 2408.00118). Scalar: cap. */
export function softCap(options: { cap: number }): Variant {
  requireOptions("options", options, ["cap"]);
  return defineVariant({
    name: "soft cap",
    scalars: { cap: { type: "f32", fallback: options.cap } },
    logits: (x, { cap }) => capped(x, cap),
  });
}

/**
 * Adds slope * (key - query), by head (ALiBi, arXiv 2108.12409). Tensor: slopes, f32 [queryHeads].
 */
export function alibi(): Variant {
  return defineVariant({
    name: "ALiBi",
    tensors: { slopes: { dtype: "f32", shape: ["queryHeads"] } },
    logits: (x, { slopes, head, key, query }) => x.add(slopes.at(head).mul(key.sub(query).toF32())),
  });
}

/** Causal, and keys within `window` positions before the query or among the first `sinks`. */
export interface SinkOptions {
  window: number;
  sinks: number;
  /** Rotates queries and keys at their positions in the cache, which holds unrotated keys. */
  rope?: Pairing;
}

/**
 * A window and the first keys (StreamingLLM, arXiv 2309.17453). With rope, positions are those in
 * the cache: where tokens between sinks and window were dropped from it, those after move up.
 *
 * Tensor, with rope: table, f32 [positions, dim / 2, 2] of cosines and sines.
 */
export function slidingWindowWithSinks(options: SinkOptions): Variant {
  requireOptions("options", options, ["window", "sinks", "rope"]);
  const { window, sinks, rope } = options;
  requireInteger("window", window, 0, maxInt32);
  requireInteger("sinks", sinks, 0, maxInt32);
  if (rope !== undefined) requirePairing(rope);
  const shape = ["any", (rope?.dim ?? 2) / 2, 2] as const;
  const tensors = { table: { dtype: "f32", shape } } as const;
  return defineVariant({
    name: "window with sinks",
    tensors: (rope === undefined ? {} : tensors) as typeof tensors,
    query: rope && ((x, { query, table }) => turned(x, query, table, rope)),
    key: rope && ((x, { key, table }) => turned(x, key, table, rope)),
    mask: ({ query, key }) => key.le(query).and(query.sub(key).le(window).or(key.lt(sinks))),
    visible({ queryStart, queryEnd, kvLength }, ranges) {
      const end = Math.min(queryEnd, kvLength);
      const first = Math.min(sinks, end);
      addBand(ranges, 0, 0, Math.min(first, queryStart + 1), first);
      const start = Math.max(first, queryStart - window);
      addBand(ranges, start, Math.max(start, queryEnd - 1 - window), queryStart + 1, end);
    },
  });
}

/**
 * Causal, but all tokens see the prompt's first ones (prefix LM, arXiv 1910.10683).
 *
 * Tensor: prefixes, i32 [requests], tokens that all see. `prefixes` holds the same on the host, by
 * request, and is read while planning; without it every key is read.
 */
export function prefixLm(options: { prefixes?: ArrayLike<number> } = {}): Variant {
  requireOptions("options", options, ["prefixes"]);
  const { prefixes: planned } = options;
  if (planned !== undefined) requireList("prefixes", planned);
  return defineVariant({
    name: "prefix LM",
    tensors: { prefixes: { dtype: "i32", shape: ["requests"] } },
    mask: ({ query, key, request, prefixes }) => key.le(query).or(key.lt(prefixes.at(request))),
    visible:
      planned &&
      (({ request, queryStart, queryEnd, kvLength }, ranges) => {
        const end = Math.min(Math.max(queryEnd, planned[request]), kvLength);
        addBand(ranges, 0, 0, Math.max(queryStart + 1, planned[request]), end);
      }),
  });
}

/**
 * Tokens see their own document, and with `causal` what of it came before.
 *
 * Tensor: documents, i32 [requests, positions], the document of each token; documents lie one after
 * the other. `starts` gives a request's first positions of documents, rising, the first 0, and is
 * read while planning; without it every key is read.
 */
export function documentMask(options: {
  causal: boolean;
  starts?: (request: number) => ArrayLike<number>;
}): Variant {
  requireOptions("options", options, ["causal", "starts"]);
  const { causal, starts } = options;
  if (starts !== undefined && typeof starts !== "function")
    throw new OptionError("starts", starts, "a function", "give starts as (request) => [0, ...].");
  return defineVariant({
    name: "documents",
    tensors: { documents: { dtype: "i32", shape: ["requests", "any"] } },
    mask: ({ query, key, request, documents }) => {
      const same = documents.at(request, query).eq(documents.at(request, key));
      return causal ? same.and(key.le(query)) : same;
    },
    visible:
      starts &&
      (({ request, queryStart, queryEnd, kvLength }, ranges) => {
        const all = starts(request);
        const first = documentAt(all, queryStart);
        const last = documentAt(all, queryEnd - 1);
        const documentEnd = last + 1 < all.length ? all[last + 1] : kvLength;
        const end = Math.min(causal ? queryEnd : documentEnd, kvLength);
        const fullEnd = first !== last ? 0 : causal ? queryStart + 1 : documentEnd;
        addBand(ranges, all[first], all[first], fullEnd, end);
      }),
  });
}

/**
 * A bit for each query and key of a request, little-endian within bytes, row after row of kvLength
 * bits; less than 2^31 bits per request.
 *
 * Tensors: bits, u8 [bytes]; offsets, i32 [requests], the first byte of each request.
 */
export function packedMask(): Variant {
  return defineVariant({
    name: "packed mask",
    tensors: {
      bits: { dtype: "u8", shape: ["any"] },
      offsets: { dtype: "i32", shape: ["requests"] },
    },
    mask: ({ queryIndex, kvLength, key, request, bits, offsets }) => {
      const bit = queryIndex.mul(kvLength).add(key);
      const byte = bits.at(offsets.at(request).add(bit.shr(3)));
      return byte.shr(bit.and(7)).and(1).ne(0);
    },
  });
}

/**
 * Blocks of queries see blocks of keys (FlexAttention's block mask, arXiv 2412.05496).
 *
 * Tensor: blocks, u8 [query blocks, key blocks], not 0 where visible. `seen` holds the same on the
 * host, with `columns` key blocks per row.
 */
export function blockMask(options: {
  block: number;
  seen: ArrayLike<number>;
  columns: number;
}): Variant {
  requireOptions("options", options, ["block", "seen", "columns"]);
  const { block, seen, columns } = options;
  requireInteger("block", block, 1, maxInt32);
  requireInteger("columns", columns, 1, maxInt32);
  requireList("seen", seen);
  return defineVariant({
    name: "block mask",
    tensors: { blocks: { dtype: "u8", shape: ["any", "any"] } },
    mask: ({ query, key, blocks }) => blocks.at(query.div(block), key.div(block)).ne(0),
    visible({ queryStart, queryEnd, kvLength }, ranges) {
      const first = Math.floor(queryStart / block);
      const count = Math.floor((queryEnd - 1) / block) - first + 1;
      for (let column = 0; column * block < kvLength; column++) {
        let rows = 0;
        for (let row = first; row < first + count; row++)
          if (seen[row * columns + column] !== 0) rows++;
        const end = Math.min((column + 1) * block, kvLength);
        if (rows > 0) ranges.add(column * block, end, rows === count);
      }
    },
  });
}

/** The query's own position and those `stride`, 2 stride, ... before it, `count` in all. */
export function dilated(options: { stride: number; count: number }): Variant {
  requireOptions("options", options, ["stride", "count"]);
  const { stride, count } = options;
  requireInteger("stride", stride, 1, maxInt32);
  requireInteger("count", count, 1, Math.floor(maxInt32 / stride));
  return defineVariant({
    name: "dilated",
    mask: ({ query, key }) => {
      const distance = query.sub(key);
      return distance
        .ge(0)
        .and(distance.lt(stride * count))
        .and(distance.mod(stride).eq(0));
    },
    visible({ queryStart, queryEnd, kvLength }, ranges) {
      const isBand = queryEnd - queryStart >= stride;
      if (isBand) {
        const start = Math.max(0, queryStart - stride * (count - 1));
        return ranges.add(start, Math.min(queryEnd, kvLength), false);
      }
      const most = Math.min(count - 1, Math.floor((queryEnd - 1) / stride));
      for (let back = stride * most; back >= 0; back -= stride) {
        const start = Math.max(0, queryStart - back);
        const end = Math.min(queryEnd - back, kvLength);
        if (start < end) ranges.add(start, end, queryEnd - queryStart === 1);
      }
    },
  });
}

/**
 * Queries and keys divided by their root mean square and weighted (QK-norm, arXiv 2010.04245).
 *
 * Tensors: queryWeights and keyWeights, f32 [headDim].
 */
export function qkNorm(options: { headDim: number; epsilon?: number }): Variant {
  requireOptions("options", options, ["headDim", "epsilon"]);
  const { headDim, epsilon = 1e-6 } = options;
  requireInteger("headDim", headDim, 1, 65536);
  requireNumber("epsilon", epsilon, 0);
  const normalised = (x: F32) =>
    x.mul(
      x
        .mul(x)
        .sum()
        .mul(1 / headDim)
        .add(epsilon)
        .rsqrt(),
    );
  return defineVariant({
    name: "QK norm",
    tensors: {
      queryWeights: { dtype: "f32", shape: ["headDim"] },
      keyWeights: { dtype: "f32", shape: ["headDim"] },
    },
    query: (x, { element, queryWeights }) => normalised(x).mul(queryWeights.at(element)),
    key: (x, { element, keyWeights }) => normalised(x).mul(keyWeights.at(element)),
  });
}

/** Adds a bias to each logit. Tensor: bias, f32 [queryHeads, tokens, keys]. */
export function logitBias(): Variant {
  return defineVariant({
    name: "logit bias",
    tensors: { bias: { dtype: "f32", shape: ["queryHeads", "tokens", "any"] } },
    logits: (x, { bias, head, queryToken, key }) => x.add(bias.at(head, queryToken, key)),
  });
}

/**
 * Multiplies outputs by a factor of the head, such as the lambda by which differential attention
 * (arXiv 2410.05258) weighs what it subtracts. Tensor: factors, f32 [queryHeads].
 */
export function outputScale(): Variant {
  return defineVariant({
    name: "output scale",
    tensors: { factors: { dtype: "f32", shape: ["queryHeads"] } },
    output: (x, { factors, head }) => x.mul(factors.at(head)),
  });
}

/**
 * Changes nothing, and writes the logits of visible pairs. Tensor: dump, f32 [queryHeads, tokens,
 * keys]; keys beyond it are not written.
 */
export function dumpLogits(): Variant {
  return defineVariant({
    name: "dump logits",
    tensors: { dump: { dtype: "f32", shape: ["queryHeads", "tokens", "any"] } },
    logits: (x, { dump, head, queryToken, key }) => {
      dump.put(x, head, queryToken, key);
      return x;
    },
  });
}

function requirePairing(rope: Pairing): void {
  requireOptions("rope", rope, ["dim", "interleaved"]);
  requireInteger("rope.dim", rope.dim, 2, 65536);
  if (rope.dim % 2 !== 0)
    throw new OptionError("rope.dim", rope.dim, "even", "rotation works on pairs.");
}
