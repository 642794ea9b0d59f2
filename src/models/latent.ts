import type { Attention } from "../attention/attention.ts";
import type { PagedCache } from "../cache/paged-cache.ts";
import type { Device } from "../device/device.ts";
import type { Batch } from "../kv/batch.ts";
import { applyRope } from "../ops/apply-rope.ts";
import { mapRows } from "../ops/map.ts";
import { matmul } from "../ops/matmul.ts";
import type { Rope } from "../ops/rope.ts";
import type { DType } from "../tensor/dtype.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Weight } from "../tensor/weight.ts";
import type { ContextAttention } from "./context-ranks.ts";
import type { LatentShape } from "./shape.ts";
import type { Masks } from "./tree-masks.ts";

/** Each head's own projections between its width and the latent's. */
export interface LatentHeads {
  /** [heads, rank, plain]: queries into the latents' space. */
  readonly keys: Weight;
  /** [heads, value, rank]: what was seen there back into the head's. */
  readonly values: Weight;
}

/** One layer's turn. */
export interface LatentStep {
  readonly layer: number;
  readonly batch: Batch;
  readonly cache: PagedCache;
  readonly attention: Attention;
  readonly masks: Masks | undefined;
  /** Where ranks have parts of the latents. */
  readonly context: ContextAttention | undefined;
  readonly rope: Rope;
  /** i32, at least one for each token. */
  readonly positions: Tensor;
  /** [tokens, heads * (plain + turned)]. */
  readonly queries: Tensor;
  /** [tokens, rank + turned]: normalised latents, and the part of keys that turns. */
  readonly latents: Tensor;
  readonly heads: LatentHeads;
}

/** Views of a step of so many tokens, made once for each count. */
interface Views {
  readonly starts: Tensor;
  readonly rows: Tensor;
  readonly positions: Tensor;
  /** Queries' plain parts as rows [tokens * heads, plain]. */
  readonly plain: Tensor;
  /** What heads make of them, [heads * tokens, rank], and the same as [tokens, heads, rank]. */
  readonly absorbed: Tensor;
  readonly absorbedByToken: Tensor;
  /** [tokens, heads, turned] of the queries. */
  readonly turned: Tensor;
  /** Wide queries [tokens, heads, rank + turned], and both parts of them. */
  readonly wide: Tensor;
  readonly wideLatent: Tensor;
  readonly wideTurned: Tensor;
  /** With as many tokens as a graph may have, which its capture asks for. */
  readonly wideMost: Tensor;
  readonly seenMost: Tensor;
  /** [tokens, 1, all]. */
  readonly keys: Tensor;
  /** What was seen, as rows [tokens * heads, rank] and [tokens, heads * rank]. */
  readonly seenRows: Tensor;
  readonly seenByToken: Tensor;
  /** Heads' results [heads * tokens, value], and the same in the order of tokens. */
  readonly results: Tensor;
  readonly byHead: Tensor;
  readonly byToken: Tensor;
  readonly out: Tensor;
}

/** Token counts whose views are kept beside those of graphs. */
const viewsMost = 16;

/**
 * Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434) over a cache of latents: each head's
 * key projection is applied to its queries instead, its value projection to what it has seen.
 */
export class LatentAttention implements Disposable {
  readonly #device: Device;
  readonly #shape: LatentShape;
  readonly #heads: number;
  /** Largest count that is kept for good: a graph holds its views. */
  readonly #maxBatch: number;
  /** Of both products. */
  readonly #invariant: boolean;
  /** [heads * tokens, rank]. */
  readonly #absorbed: Tensor;
  /** [tokens * heads, rank + turned]. */
  readonly #wide: Tensor;
  /** [tokens * heads, rank]. */
  readonly #seen: Tensor;
  readonly #results: Tensor;
  readonly #out: Tensor;
  readonly #views = new Map<number, Views>();

  constructor(
    device: Device,
    dtype: DType,
    shape: LatentShape,
    sizes: { heads: number; tokenBudget: number; maxBatch: number; invariant: boolean },
  ) {
    const { heads, tokenBudget, maxBatch } = sizes;
    this.#invariant = sizes.invariant;
    const { rank, turned, value } = shape;
    this.#device = device;
    this.#shape = shape;
    this.#heads = heads;
    this.#maxBatch = maxBatch;
    const rows = heads * tokenBudget;
    const room = (width: number, label: string) =>
      Tensor.zeros(device, [rows, width], dtype, label);
    this.#absorbed = room(rank, "absorbed queries");
    this.#wide = room(rank + turned, "wide queries");
    this.#seen = room(rank, "seen latents");
    this.#results = room(value, "heads' results");
    this.#out = room(value, "attended");
  }

  /** Appends the latents, and attends: [tokens, heads * value]. */
  run(step: LatentStep): Tensor {
    const { layer, batch, cache, attention, rope, heads } = step;
    const views = this.#viewsOf(step);
    const { starts, rows, wide, keys } = views;
    const how = { groups: { starts, rows }, invariant: this.#invariant };
    matmul(views.plain, heads.keys, { ...how, out: views.absorbed });
    mapRows({ operation: "scale", a: views.absorbedByToken, out: views.wideLatent }, {});
    mapRows({ operation: "scale", a: views.turned, out: views.wideTurned }, {});
    applyRope(wide, keys, views.positions, rope);
    cache.append({ layer, batch, planes: { latent: keys } });
    if (step.context)
      step.context.run({ layer, cache, attention, q: wide, out: views.seenByToken });
    else attention.run({ layer, q: views.wideMost, cache, out: views.seenMost, ...step.masks });
    matmul(views.seenRows, heads.values, { ...how, out: views.results });
    mapRows({ operation: "scale", a: views.byHead, out: views.byToken }, {});
    return views.out;
  }

  [Symbol.dispose](): void {
    for (const views of this.#views.values()) free(views);
    const buffers = [this.#absorbed, this.#wide, this.#seen, this.#results, this.#out];
    for (const buffer of buffers) buffer[Symbol.dispose]();
  }

  #viewsOf(step: LatentStep): Views {
    const tokens = step.queries.shape[0];
    let views = this.#views.get(tokens);
    if (views !== undefined) return views;
    const others = [...this.#views.keys()].filter((count) => count > this.#maxBatch);
    if (tokens > this.#maxBatch && others.length === viewsMost) {
      free(this.#views.get(others[0])!);
      this.#views.delete(others[0]);
    }
    views = this.#makeViews(step, tokens);
    this.#views.set(tokens, views);
    return views;
  }

  #makeViews({ queries, latents, positions }: LatentStep, tokens: number): Views {
    const heads = this.#heads;
    const { rank, turned, plain, value } = this.#shape;
    const device = this.#device;
    const count = heads * tokens;
    const all = rank + turned;
    // Entries by head: token t of head h is entry h * tokens + t, of row t * heads + h.
    const starts = Array.from({ length: heads + 1 }, (_, head) => head * tokens);
    const rows = Array.from(
      { length: count },
      (_, i) => (i % tokens) * heads + Math.floor(i / tokens),
    );
    const most = Math.max(tokens, this.#maxBatch);
    const wideMost = this.#wide.slice(0, 0, heads * most).reshape(most, heads, all);
    const wide = wideMost.slice(0, 0, tokens);
    const absorbed = this.#absorbed.slice(0, 0, count);
    const seenMost = this.#seen.slice(0, 0, heads * most);
    const results = this.#results.slice(0, 0, count);
    const inHeads = queries.reshape(tokens, heads, plain + turned);
    const outRows = this.#out.slice(0, 0, count);
    return {
      starts: Tensor.from(device, starts, [heads + 1], "i32", "heads' entries"),
      rows: Tensor.from(device, rows, [count], "i32", "rows by head"),
      positions: positions.slice(0, 0, tokens),
      plain: queries.reshape(count, plain + turned).slice(1, 0, plain),
      absorbed,
      absorbedByToken: absorbed.reshape(heads, tokens, rank).permute(1, 0, 2),
      turned: inHeads.slice(2, plain, plain + turned),
      wide,
      wideLatent: wide.slice(2, 0, rank),
      wideTurned: wide.slice(2, rank, all),
      wideMost,
      seenMost: seenMost.reshape(most, heads, rank),
      keys: latents.reshape(tokens, 1, all),
      seenRows: seenMost.slice(0, 0, count),
      seenByToken: seenMost.slice(0, 0, count).reshape(tokens, heads * rank),
      results,
      byHead: results.reshape(heads, tokens, value),
      byToken: outRows.reshape(tokens, heads, value).permute(1, 0, 2),
      out: outRows.reshape(tokens, heads * value),
    };
  }
}

function free({ starts, rows }: Views): void {
  starts[Symbol.dispose]();
  rows[Symbol.dispose]();
}
