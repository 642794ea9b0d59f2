import { OptionError } from "../errors.ts";
import type { Tensor } from "./tensor.ts";

/** Order within a page: "NHD" tokens, heads, dim; "HND" heads, tokens, dim. */
export type PageOrder = "NHD" | "HND";

/**
 * Pages of as many tokens as heads have one shape in either order, so that a dense tensor in the
 * wrong one would pass. Throws an OptionError unless the order is given, or strides show that a
 * view was permuted; and where the given one is not that of `pages` [pages, pageSize, heads, dim].
 */
export function requireOrder(option: string, pages: Tensor, order: PageOrder | undefined): void {
  const { shape, strides, label } = pages;
  if (shape[1] !== shape[2] || shape[1] === 1) return;
  const lies = strides[1] < strides[2] ? "HND" : "NHD";
  if (order === lies || (order === undefined && lies === "HND")) return;
  const given = `${label}, strides [${strides}]`;
  if (order === undefined) {
    const fix = 'pass layout: "NHD" if it is, else permute(0, 2, 1, 3) it and pass layout: "HND".';
    throw new OptionError(option, given, "of a known order, as tokens are as many as heads", fix);
  }
  const allowed = `[pages, pageSize, heads, dim] over memory in ${order} order`;
  throw new OptionError(option, given, allowed, "permute the axes of the view, or correct layout.");
}
