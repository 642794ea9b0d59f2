import { OptionError } from "../errors.ts";
import { Tensor } from "./tensor.ts";

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
    const fix = 'pass layout: "NHD" or "HND", whichever it is.';
    throw new OptionError(option, given, "of a known order, as tokens are as many as heads", fix);
  }
  const allowed = `[pages, pageSize, heads, dim] over memory in ${order} order`;
  throw new OptionError(option, given, allowed, "permute the axes of the view, or correct layout.");
}

/**
 * A view [pages, pageSize, heads, dim] of pages that are named "HND": those whose axes are [pages,
 * heads, pageSize, dim], unless they were permuted to that view before. Others as they are. Pages
 * of one head may lack the axis of heads. Errors: OptionError as requireOrder.
 */
export function pagesInOrder(
  option: string,
  pages: Tensor,
  order: PageOrder | undefined,
  heads: number,
): Tensor {
  if (order !== undefined && order !== "NHD" && order !== "HND") {
    const fix = "name the order within a page.";
    throw new OptionError("layout", order, '"NHD" or "HND"', fix);
  }
  const { shape, strides } = pages;
  if (shape.length === 3 && heads === 1) return withHeads(pages);
  if (shape.length !== 4) return pages;
  if (order === "HND") {
    const isPermuted = shape[2] === heads && (shape[1] !== heads || strides[1] < strides[2]);
    return isPermuted ? pages : pages.permute(0, 2, 1, 3);
  }
  requireOrder(option, pages, order);
  return pages;
}

/** [pages, pageSize, dim] as [pages, pageSize, 1, dim]; rows [tokens, dim] as [tokens, 1, dim]. */
export function withHeads(rows: Tensor): Tensor {
  const { device, address, dtype } = rows;
  rows.guard();
  const at = rows.shape.length - 1;
  const shape = rows.shape.toSpliced(at, 0, 1);
  const strides = rows.strides.toSpliced(at, 0, rows.shape[at]);
  return Tensor.fromPointer(device, address, shape, dtype, { strides, keep: rows });
}
