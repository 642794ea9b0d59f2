import { CommError } from "../errors.ts";
import type { AdapterFile } from "../weights/adapter.ts";
import type { Checkpoint } from "../weights/checkpoint.ts";
import { CheckpointError } from "../weights/errors.ts";
import { columnsOf, type Range, rowsOf } from "../weights/slice.ts";
import type { StoredTensor } from "../weights/stored.ts";
import type { DecoderShape } from "./shape.ts";

/** Which part of a model a process has: one of `ranks` that are alike. */
export interface Share {
  readonly rank: number;
  readonly ranks: number;
  /** Whether the keys of each request are split, too: then all ranks have all key heads. */
  readonly splitsContext?: boolean;
}

/** Whether a model can be split so: whole heads each, and as many elements between projections. */
function fits({ queryHeads, kvHeads, intermediate, mixture }: DecoderShape, ranks: number) {
  return (
    queryHeads % ranks === 0 &&
    (kvHeads % ranks === 0 || ranks % kvHeads === 0) &&
    intermediate % ranks === 0 &&
    (mixture === undefined || mixture.intermediate % ranks === 0)
  );
}

/** The part of `count` things that a rank has; of fewer things than ranks several have the same. */
function partOf(count: number, { rank, ranks }: Share): Range {
  if (ranks > count) {
    const one = Math.floor((rank * count) / ranks);
    return [one, one + 1];
  }
  return [(rank * count) / ranks, ((rank + 1) * count) / ranks];
}

/** Rows of the head that a rank has; a vocabulary that does not divide stays whole. */
function headRowsOf({ vocabulary }: DecoderShape, share: Share): Range {
  return vocabulary % share.ranks === 0 ? partOf(vocabulary, share) : [0, vocabulary];
}

/**
 * The sizes of one rank's part: its heads, its elements between projections, its rows of the head.
 * Errors: CommError that names the numbers of ranks that fit.
 */
export function sharedShape(shape: DecoderShape, share: Share): DecoderShape {
  const { ranks, splitsContext = false } = share;
  if (!fits(shape, ranks)) {
    const { queryHeads, kvHeads, intermediate, mixture } = shape;
    const inner = mixture && mixture.intermediate !== intermediate;
    const experts = inner ? ` and ${mixture.intermediate} of an expert` : "";
    const counts = Array.from({ length: queryHeads }, (_, i) => i + 1);
    const fitting = counts.filter((count) => fits(shape, count)).join(", ");
    throw new CommError(
      `${ranks} ranks do not divide ${queryHeads} query heads, ${kvHeads} key heads and ` +
        `${intermediate} elements${experts}. Fix: start one of ${fitting} ranks.`,
    );
  }
  const { mixture } = shape;
  return {
    ...shape,
    queryHeads: shape.queryHeads / ranks,
    kvHeads: splitsContext ? shape.kvHeads : Math.max(1, shape.kvHeads / ranks),
    ...(splitsContext && { contextHeads: shape.queryHeads }),
    intermediate: shape.intermediate / ranks,
    headRows: headRowsOf(shape, share),
    ...(mixture && { mixture: { ...mixture, intermediate: mixture.intermediate / ranks } }),
  };
}

/** What of a matrix a rank has: ranges of its rows, or of its columns. */
interface Cut {
  readonly axis: 0 | 1;
  /** Of so many rows or columns. Undefined for a number that cannot be cut so. */
  rangesOf(count: number): readonly Range[] | undefined;
}

/** How tensors of Llama's and DeepSeek's names are cut, by the end of their names. */
function cutsOf(shape: DecoderShape, share: Share): [RegExp, Cut][] {
  const { queryHeads, kvHeads, headDim, latent, vocabulary } = shape;
  const heads = ([from, to]: Range, dim = headDim): Range => [from * dim, to * dim];
  const behind = (by: number, [from, to]: Range): Range => [by + from, by + to];
  const own = partOf(queryHeads, share);
  const kv = heads(share.splitsContext ? [0, kvHeads] : partOf(kvHeads, share));
  const [k, v] = [queryHeads * headDim, (queryHeads + kvHeads) * headDim];
  const packed = [heads(own), behind(k, kv), behind(v, kv)];
  const fixed = (axis: 0 | 1, whole: number, ranges: readonly Range[]): Cut => {
    return { axis, rangesOf: (count) => (count === whole ? ranges : undefined) };
  };
  /** Each of `parts` that lie one behind the other is cut evenly. */
  const evenly = (axis: 0 | 1, parts = 1): Cut => ({
    axis,
    rangesOf(count) {
      const each = count / parts;
      if (each % share.ranks !== 0) return undefined;
      return Array.from({ length: parts }, (_, i) => behind(i * each, partOf(each, share)));
    },
  });
  /** What of each query head so many elements belong to. */
  const ofHeads = (axis: 0 | 1, dim = headDim) => fixed(axis, queryHeads * dim, [heads(own, dim)]);
  // What all heads share of a latent, and what makes it, is whole on each rank.
  return [
    [/\.q(_b)?_proj\.(weight|bias)$/, ofHeads(0, latent && latent.plain + latent.turned)],
    [/\.kv_b_proj\.weight$/, ofHeads(0, latent && latent.plain + latent.value)],
    [/\.[kv]_proj\.(weight|bias)$/, fixed(0, kvHeads * headDim, [kv])],
    [/\.qkv_proj\.(weight|bias)$/, fixed(0, v + kvHeads * headDim, packed)],
    [/\.o_proj\.weight$/, ofHeads(1, latent?.value)],
    [/\.(gate_proj|up_proj|w1|w3)\.weight$/, evenly(0)],
    [/\.gate_up_proj\.weight$/, evenly(0, 2)],
    [/\.(down_proj|w2)\.weight$/, evenly(1)],
    [/^lm_head\.weight$/, fixed(0, vocabulary, [headRowsOf(shape, share)])],
  ];
}

/** What a rank has of a tensor. Errors: CheckpointError for one that is of other sizes. */
function cutTensor(path: string, stored: StoredTensor, { axis, rangesOf }: Cut): StoredTensor {
  const ranges = rangesOf(stored.shape[axis]);
  if (ranges === undefined) {
    const what = `${stored.name} of [${stored.shape.join(", ")}] is not what ranks share`;
    throw new CheckpointError(path, what, "use files of this very model, whole.");
  }
  return axis === 0 ? rowsOf(stored, ranges) : columnsOf(path, stored, ranges[0]);
}

/** A checkpoint of which each tensor is one rank's part; what is not cut is whole. */
export function sharedCheckpoint(
  checkpoint: Checkpoint,
  shape: DecoderShape,
  share: Share,
): Checkpoint {
  const cuts = cutsOf(shape, share);
  const tensors = [...checkpoint.tensors].map(([name, stored]): [string, StoredTensor] => {
    const cut = cuts.find(([pattern]) => pattern.test(name))?.[1];
    return [name, cut === undefined ? stored : cutTensor(checkpoint.path, stored, cut)];
  });
  return { ...checkpoint, tensors: new Map(tensors) };
}

/**
 * One rank's part of an adapter: of a layer whose outputs ranks share, rows of B, of one whose
 * inputs they share, columns of A. Errors: CheckpointError for one of another model.
 */
export function sharedAdapter(file: AdapterFile, shape: DecoderShape, share: Share): AdapterFile {
  const cuts = cutsOf(shape, share);
  const tensors = [...file.tensors].map(([name, stored]): [string, StoredTensor] => {
    const [, module, matrix] = /^(.+)\.lora_([AB])\.weight$/.exec(name)!;
    const cut = cuts.find(([pattern]) => pattern.test(`${module}.weight`))?.[1];
    const isCut = cut?.axis === (matrix === "B" ? 0 : 1);
    return [name, isCut ? cutTensor(file.path, stored, cut) : stored];
  });
  return { ...file, tensors: new Map(tensors) };
}
