import { OptionError } from "../errors.ts";
import { checkOptions, flag, integer, list, object, oneOf, unchecked } from "../options.ts";
import { requireInteger } from "../require.ts";
import { type DType, dtypes } from "../tensor/dtype.ts";
import type { PageOrder } from "../tensor/page-order.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** A plane of a cache page: `heads` rows of `dim` elements per token. */
export interface PlaneOptions {
  name: string;
  heads: number;
  dim: number;
  dtype: DType;
}

/** Layers that share pages and a page table. */
export interface CacheGroupOptions {
  /** Layers of the group; every layer is in exactly one group. */
  layers: readonly number[];
  pages: number;
  /** Tokens before a query that these layers see; pages wholly before are freed. -1: all. */
  windowLeft?: number;
}

/**
 * Options of {@link PagedCache.create}; queryHeads is accepted so that one shape object serves all.
 */
export interface PagedCacheOptions {
  layers: number;
  kvHeads: number;
  /** Elements of a key head. */
  headDim: number;
  /** Elements of a value head; default headDim. */
  valueDim?: number;
  /** Dtype of keys and values. */
  dtype: DType;
  pages: number;
  /** Tokens per page. */
  pageSize: number;
  queryHeads?: number;
  /**
   * Order within a page: "NHD" tokens, heads, dim; "HND" heads, tokens, dim. Default NHD. Beside
   * `storage` it is needed where pages hold as many tokens as heads.
   */
  layout?: PageOrder;
  /** True: key and value of a layer lie in one tensor [pages, 2, ...]. */
  combined?: boolean;
  /**
   * True: keys keep the positions that they were appended with from the first step on, wherever
   * `compact` moves them. Default: from the first step on that is given positions which are not its
   * tokens' places in their sequences; until then keys stand at their places. A step that is
   * captured before that cannot be replayed after.
   */
  keyPositions?: boolean;
  /** Most sequences alive at once; default 512. */
  maxSequences?: number;
  /** Planes instead of key and value, such as one latent plane. At most 4. */
  planes?: readonly PlaneOptions[];
  /** Page groups; default one group of all layers. */
  groups?: readonly CacheGroupOptions[];
  /**
   * Your own storage: a view [pages, pageSize, heads, dim] of a layer's plane, with any strides but
   * the innermost, which is 1.
   */
  storage?: (layer: number, plane: PlaneOptions) => Tensor;
}

/** What each option may be. */
export const schemas = {
  layers: integer(1, 65536),
  kvHeads: integer(1, 65536),
  headDim: integer(1, 65536),
  valueDim: integer(1, 65536),
  dtype: oneOf(dtypes),
  pages: integer(1),
  pageSize: integer(1, 1 << 20),
  queryHeads: integer(1, 65536),
  layout: oneOf(["NHD", "HND"]),
  combined: flag,
  keyPositions: flag,
  maxSequences: integer(1, 1 << 20),
  planes: list(
    object(
      {
        name: { type: "string", description: "a name" },
        heads: integer(1, 65536),
        dim: integer(1, 65536),
        dtype: oneOf(dtypes),
      },
      ["name", "heads", "dim", "dtype"],
      "an object { name, heads, dim, dtype }",
    ),
    "a list of { name, heads, dim, dtype }",
  ),
  groups: list(
    object(
      {
        layers: list(integer(0, 65535), "a list of layers"),
        pages: integer(1),
        windowLeft: integer(-1),
      },
      ["layers", "pages"],
      "an object { layers, pages, windowLeft }",
    ),
    "a list of { layers, pages, windowLeft }",
  ),
  storage: unchecked("a function (layer, plane) => Tensor"),
};
const required = ["layers", "kvHeads", "headDim", "dtype", "pages", "pageSize"];

/** Most planes that one append kernel writes. */
export const planesMax = 4;

/** Throws OptionError unless the options describe a cache. */
export function checkCacheOptions(options: PagedCacheOptions): void {
  checkOptions("options", schemas, required, options);
  const { storage } = options;
  if (storage !== undefined && typeof storage !== "function")
    throw new OptionError("storage", storage, schemas.storage.description, "pass a function.");
  const planes = planesOf(options);
  if (planes.length < 1 || planes.length > planesMax) {
    throw new OptionError(
      "planes",
      planes.length,
      `1 to ${planesMax} planes`,
      "list fewer planes.",
    );
  }
  const names = new Set<string>();
  for (const { name } of planes) {
    if (names.has(name)) throw new OptionError("planes", name, "named once", "rename one plane.");
    names.add(name);
  }
  checkGroups(options);
}

/** The planes that the options ask for. */
export function planesOf(options: PagedCacheOptions): readonly PlaneOptions[] {
  const { kvHeads: heads, headDim, valueDim = headDim, dtype } = options;
  return (
    options.planes ?? [
      { name: "key", heads, dim: headDim, dtype },
      { name: "value", heads, dim: valueDim, dtype },
    ]
  );
}

/** The page groups that the options ask for. */
export function groupsOf(options: PagedCacheOptions): readonly CacheGroupOptions[] {
  const layers = Array.from({ length: options.layers }, (_, layer) => layer);
  return options.groups ?? [{ layers, pages: options.pages }];
}

function checkGroups(options: PagedCacheOptions): void {
  const seen = new Set<number>();
  for (const [index, group] of groupsOf(options).entries()) {
    for (const layer of group.layers) {
      requireInteger(`groups[${index}].layers`, layer, 0, options.layers - 1);
      if (seen.has(layer)) {
        throw new OptionError("groups", layer, "each layer in one group", "name the layer once.");
      }
      seen.add(layer);
    }
  }
  if (seen.size !== options.layers) {
    const fix = "add the layers that are missing.";
    throw new OptionError("groups", `${seen.size} layers`, `all ${options.layers} layers`, fix);
  }
}
