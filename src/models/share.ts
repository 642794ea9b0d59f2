import { CommError } from "../errors.ts";
import type { Checkpoint } from "../weights/checkpoint.ts";
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
  if (splitsContext) requireSplittable(shape);
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

/** Errors: CommError for a model whose requests' keys are not split over ranks. */
function requireSplittable({ attention, latent }: DecoderShape): void {
  const hasWindow = attention.some(({ windowLeft }) => windowLeft >= 0);
  if (latent === undefined && !hasWindow) return;
  const what = hasWindow
    ? "windows, which see few keys"
    : "latents, which are attended as they lie";
  throw new CommError(
    `dcp splits the keys of full attention, and this model has ${what}. Fix: leave dcp out.`,
  );
}

type Cut = (stored: StoredTensor) => StoredTensor;

/** How tensors of Llama's and DeepSeek's names are cut, by the end of their names. */
function cutsOf(path: string, shape: DecoderShape, share: Share): [RegExp, Cut][] {
  const { queryHeads, kvHeads, headDim, latent } = shape;
  const heads = ([from, to]: Range, dim = headDim): Range => [from * dim, to * dim];
  const behind = (by: number, [from, to]: Range): Range => [by + from, by + to];
  const own = partOf(queryHeads, share);
  const q = heads(own, latent && latent.plain + latent.turned);
  const out = heads(own, latent?.value);
  // What all heads share of a latent, and what makes it, is whole on each rank.
  const unfolded = heads(own, latent && latent.plain + latent.value);
  const kv = heads(share.splitsContext ? [0, kvHeads] : partOf(kvHeads, share));
  const [k, v] = [queryHeads * headDim, (queryHeads + kvHeads) * headDim];
  const packed = [q, behind(k, kv), behind(v, kv)];
  const evenly = (count: number) => partOf(count, share);
  const rows = (ranges: (stored: StoredTensor) => readonly Range[]): Cut => {
    return (stored) => rowsOf(stored, ranges(stored));
  };
  return [
    [/\.q(_b)?_proj\.(weight|bias)$/, rows(() => [q])],
    [/\.kv_b_proj\.weight$/, rows(() => [unfolded])],
    [/\.[kv]_proj\.(weight|bias)$/, rows(() => [kv])],
    [/\.qkv_proj\.(weight|bias)$/, rows(() => packed)],
    [/\.o_proj\.weight$/, (stored) => columnsOf(path, stored, out)],
    [/\.(gate_proj|up_proj|w1|w3)\.weight$/, rows(({ shape: [all] }) => [evenly(all)])],
    [
      /\.gate_up_proj\.weight$/,
      rows(({ shape: [all] }) => [evenly(all / 2), behind(all / 2, evenly(all / 2))]),
    ],
    [/\.(down_proj|w2)\.weight$/, (stored) => columnsOf(path, stored, evenly(stored.shape[1]))],
    [/^lm_head\.weight$/, rows(() => [headRowsOf(shape, share)])],
  ];
}

/** A checkpoint of which each tensor is one rank's part; what is not cut is whole. */
export function sharedCheckpoint(
  checkpoint: Checkpoint,
  shape: DecoderShape,
  share: Share,
): Checkpoint {
  const cuts = cutsOf(checkpoint.path, shape, share);
  const tensors = [...checkpoint.tensors].map(([name, stored]): [string, StoredTensor] => {
    const cut = cuts.find(([pattern]) => pattern.test(name))?.[1];
    return [name, cut === undefined ? stored : cut(stored)];
  });
  return { ...checkpoint, tensors: new Map(tensors) };
}
