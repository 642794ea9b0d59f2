/** New tokens into pages that the caller manages. */
import type { Device } from "../device/device.ts";
import type { Stream } from "../device/stream.ts";
import { requireStream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { requireOptions } from "../require.ts";
import { requireApart } from "../tensor/overlap.ts";
import { type PageOrder, pagesInOrder, withHeads } from "../tensor/page-order.ts";
import { scaleTensor } from "../tensor/scale.ts";
import { requireTensor, type Tensor } from "../tensor/tensor.ts";
import { Appender, type AppendTable } from "./append.ts";
import { checkPlaces, checkSlots } from "./append-contents.ts";
import { planesMax } from "./options.ts";

/** New rows of one plane, and the pages they go to. */
export interface PageRows {
  /**
   * [pages, pageSize, heads, dim], with layout "HND" [pages, heads, pageSize, dim]; of one head
   * also [pages, pageSize, dim]. Any strides but the innermost, which is 1.
   */
  pages: Tensor;
  /** [tokens, heads, dim]; of one head also [tokens, dim]. */
  rows: Tensor;
  /** f32: divides the rows before they are rounded to fp8; shaped as for attention, or a number. */
  scale?: Tensor | number | null;
}

/** What {@link appendPages} writes, and where. */
export interface AppendPagesOptions {
  /** Up to four planes: keys and values, or MLA's latent rows and their rotated part. */
  planes: readonly PageRows[];
  /** i32 or i64 [tokens]: page * pageSize + offset of each token; -1 leaves a token out. */
  slotMapping?: Tensor | null;
  /** Or i32 or i64 [tokens]: the request of each token (-1 leaves it out) and its place in it; */
  requests?: Tensor | null;
  positions?: Tensor | null;
  /** then i32 or i64 [requests, columns]: page ids; or with indptr [requests + 1] all in a row. */
  pageTable?: Tensor | null;
  indptr?: Tensor | null;
  /** Order within a page, "NHD" by default; needed where pages hold as many tokens as heads. */
  layout?: PageOrder;
  stream?: Stream;
}

const optionNames = [
  "planes",
  "slotMapping",
  "requests",
  "positions",
  "pageTable",
  "indptr",
  "layout",
  "stream",
];

/** By device, then by page size. */
const appenders = new WeakMap<Device, Map<number, Appender>>();

/**
 * Writes new tokens' rows into pages that the caller manages, as one kernel: all planes at once,
 * rounded to the dtype of the pages. It reads indices on the device and can be captured; the CPU
 * device looks at them first, a GPU leaves out what names no page. Errors: OptionError.
 */
export function appendPages(options: AppendPagesOptions): void {
  requireOptions("options", options, optionNames);
  const { layout } = options;
  const planes = planesOf(options);
  const [{ pages }] = planes;
  const { device } = pages;
  const stream = options.stream ?? device.stream;
  requireStream(stream, device);
  const indices = indicesOf(device, options);
  const table = indices.slotMapping === undefined ? tableOf(indices) : undefined;
  const tokens = (indices.slotMapping ?? indices.positions)!.elements;
  for (const [i, plane] of planes.entries()) {
    if (table === undefined && plane.scale?.shape.length === 2) {
      const fix = "pass requests, positions and pageTable instead of slotMapping.";
      const allowed = "scales by tensor, head or token: slots are of no request";
      throw new OptionError(`planes[${i}].scale`, plane.scale.label, allowed, fix);
    }
    requireApart(`planes[${i}].pages`, plane.pages, `planes[${i}].rows`, plane.rows);
    if (plane.pages.shape[1] === pages.shape[1]) continue;
    const allowed = `pages of ${pages.shape[1]} tokens, as the first plane's`;
    const fix = `give all planes pages of one size${layout === undefined ? ", or layout" : ""}.`;
    throw new OptionError(`planes[${i}].pages`, plane.pages.label, allowed, fix);
  }
  const pageCount = Math.min(...planes.map((plane) => plane.pages.shape[0]));
  const check = () => {
    if (table === undefined) checkSlots(indices.slotMapping!, pageCount * pages.shape[1], stream);
    else checkPlaces({ ...indices, table, pageCount, pageSize: pages.shape[1] }, stream);
  };
  const appender = appenderOf(device, pages.shape[1]);
  const step = { paddedTokens: tokens, tokenCount: tokens, requestCount: table?.requests ?? 1 };
  appender.begin(step, indices.requests?.address ?? 0);
  if (table === undefined) appender.bySlot(indices.slotMapping!.address);
  else appender.byTable(indices.positions!.address, table);
  for (const [i, plane] of planes.entries())
    appender.plane(`planes[${i}].rows`, plane.pages, plane.rows, plane.scale);
  if (device.capturing) {
    const given = Object.values(indices).filter((each) => each !== undefined);
    device.needOnReplay(...given, ...options.planes.flatMap(({ pages, rows }) => [pages, rows]));
    if (device.checksContents) device.onReplay(pages, check);
  } else if (device.checksContents) check();
  appender.launch(stream);
}

interface Plane {
  readonly pages: Tensor;
  readonly rows: Tensor;
  readonly scale: Tensor | undefined;
}

/** The planes as [pages, pageSize, heads, dim] and [tokens, heads, dim]. Errors: OptionError. */
function planesOf({ planes, layout }: AppendPagesOptions): Plane[] {
  const isList = Array.isArray(planes) && planes.length > 0 && planes.length <= planesMax;
  if (!isList) {
    const allowed = `a list of 1 to ${planesMax} planes`;
    throw new OptionError("planes", planes, allowed, "pass [{ rows: k, pages }, ...].");
  }
  return Array.from(planes, (plane: PageRows, i) => {
    const option = `planes[${i}]`;
    requireOptions(option, plane, ["pages", "rows", "scale"]);
    requireTensor(`${option}.pages`, plane.pages);
    requireTensor(`${option}.rows`, plane.rows);
    const { device } = plane.pages;
    plane.pages.requireOn(i === 0 ? device : planes[0].pages.device, `${option}.pages`);
    plane.rows.requireOn(device, `${option}.rows`);
    const rows = plane.rows.shape.length === 2 ? withHeads(plane.rows) : plane.rows;
    const pages = pagesInOrder(`${option}.pages`, plane.pages, layout, rows.shape[1]);
    if (pages.shape.length !== 4 || pages.strides[3] !== 1) {
      const allowed = "[pages, pageSize, heads, dim] with innermost stride 1";
      throw new OptionError(`${option}.pages`, plane.pages.label, allowed, "view it so.");
    }
    return { pages, rows, scale: scaleTensor(device, `${option}.scale`, plane.scale) };
  });
}

interface Indices {
  readonly slotMapping?: Tensor;
  readonly requests?: Tensor;
  readonly positions?: Tensor;
  readonly pageTable?: Tensor;
  readonly indptr?: Tensor;
}

/** The index tensors as i32, those of one way to say where tokens go. Errors: OptionError. */
function indicesOf(device: Device, options: AppendPagesOptions): Indices {
  const slotMapping = indexTensor(device, "slotMapping", options.slotMapping);
  const requests = indexTensor(device, "requests", options.requests);
  const positions = indexTensor(device, "positions", options.positions);
  const pageTable = indexTensor(device, "pageTable", options.pageTable);
  const indptr = indexTensor(device, "indptr", options.indptr);
  const table = [requests, positions, pageTable];
  const isBySlot = slotMapping !== undefined && [...table, indptr].every((each) => !each);
  const isByTable = slotMapping === undefined && table.every(Boolean);
  if (!isBySlot && !isByTable) {
    const allowed = "slotMapping alone, or requests, positions and pageTable";
    throw new OptionError("slotMapping", slotMapping, allowed, "say once where tokens go.");
  }
  const tokens = (slotMapping ?? positions)!.elements;
  if (requests !== undefined && requests.elements !== tokens)
    throw new OptionError(
      "requests",
      requests.label,
      `[${tokens}]`,
      "give each token its request.",
    );
  return { slotMapping, requests, positions, pageTable, indptr };
}

/** A dense i32 tensor of these indices, or undefined for none. */
function indexTensor(device: Device, option: string, given?: Tensor | null): Tensor | undefined {
  if (given === undefined || given === null) return undefined;
  requireTensor(option, given);
  given.requireOn(device, option);
  if (given.dtype === "i64") return given.to("i32");
  if (given.dtype === "i32" && given.contiguous) return given;
  throw new OptionError(option, given.label, "a dense i32 or an i64 tensor", "copy it by to(i32).");
}

function tableOf({ pageTable, indptr }: Indices): AppendTable {
  const { shape, elements, address } = pageTable!;
  const axes = indptr === undefined ? 2 : 1;
  if (shape.length !== axes || (indptr !== undefined && indptr.elements === 0)) {
    const allowed = "[requests, columns], or [entries] with indptr [requests + 1]";
    throw new OptionError("pageTable", pageTable!.label, allowed, "reshape it, or pass indptr.");
  }
  return {
    address,
    entries: elements,
    stride: axes === 2 ? shape[1] : 0,
    indptr: indptr?.address ?? 0,
    requests: indptr === undefined ? shape[0] : indptr.elements - 1,
  };
}

function appenderOf(device: Device, pageSize: number): Appender {
  let bySize = appenders.get(device);
  if (bySize === undefined) appenders.set(device, (bySize = new Map()));
  let appender = bySize.get(pageSize);
  if (appender === undefined) bySize.set(pageSize, (appender = new Appender(device, pageSize)));
  return appender;
}
