/** New tokens into pages that the caller manages. */
import type { Device } from "../device/device.ts";
import type { Stream } from "../device/stream.ts";
import type { Owner } from "../device/owner.ts";
import { requireStream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { type Batch, requireBatch } from "../kv/batch.ts";
import { requireOptions } from "../require.ts";
import { indexValues } from "../tensor/indices.ts";
import { requireApart } from "../tensor/overlap.ts";
import { type PageOrder, pagesInOrder, withHeads } from "../tensor/page-order.ts";
import { scaleTensor } from "../tensor/scale.ts";
import { requireTensor, type Tensor } from "../tensor/tensor.ts";
import { Appender, type AppendTokens, rowsOf } from "./append.ts";
import { checkPlaces, checkSlots } from "./append-contents.ts";
import { type AppendIndices, indicesOf, positionsOf, tableOf } from "./append-indices.ts";
import { planesMax } from "./options.ts";
import { listsOf } from "./page-lists.ts";

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
export interface AppendPagesOptions extends AppendIndices {
  /** Up to four planes: keys and values, or MLA's latent rows and their rotated part. */
  planes: readonly PageRows[];
  /** Or the batch of a step of page lists, which knows all of it. */
  batch?: Batch | null;
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
  "batch",
  "keyPositions",
  "newPositions",
  "layout",
  "stream",
];

/** By device, then by page size. */
const appenders = new WeakMap<Device, Map<number, Appender>>();

/**
 * Writes new tokens' rows into pages that the caller manages, as one kernel: all planes at once,
 * rounded to the dtype of the pages. It reads indices on the device and can be captured; the CPU
 * device looks at them first, a GPU leaves out what names no page. Errors: OptionError, PlanError
 * for a stale batch, or one that writes nothing.
 */
export function appendPages(options: AppendPagesOptions): void {
  requireOptions("options", options, optionNames);
  const planes = planesOf(options);
  const [{ pages }] = planes;
  const { device } = pages;
  const stream = options.stream ?? device.stream;
  requireStream(stream, device);
  const { batch } = options;
  const where =
    batch === undefined || batch === null
      ? placesOfTensors(stream, options)
      : placesOfBatch(device, options, batch);
  checkPlanes(planes, where.bySlot);
  const pageSize = pages.shape[1];
  const pageCount = Math.min(...planes.map((plane) => plane.pages.shape[0]));
  where.fits?.(pageCount, pageSize);
  const appender = appenderOf(device, pageSize);
  appender.begin(where.step, where.tokenRequests);
  where.aim(appender);
  const positions = positionsOf(stream, options, rowsOf(device, where.step), pageCount, pageSize);
  if (positions.length > 0)
    appender.withPositions(positions[0].address, positions[1]?.address ?? 0);
  for (const [i, plane] of planes.entries())
    appender.plane(`planes[${i}].rows`, plane.pages, plane.rows, plane.scale);
  const check = (checked: Stream) => {
    where.send?.(checked);
    if (!device.checksContents) return;
    checked.wait();
    where.check(pageCount, pageSize);
  };
  if (device.capturing) {
    where.send?.(stream);
    const owners = options.planes.flatMap(({ pages, rows }) => [pages, rows]);
    device.needOnReplay(...where.owners, ...positions, ...owners);
    device.onReplay(pages, (replayed) => {
      where.replayed?.();
      check(replayed);
    });
  } else check(stream);
  appender.launch(stream);
}

/** Where tokens go. */
interface Places {
  readonly step: AppendTokens;
  /** Address of the request of each token, or 0. */
  readonly tokenRequests: number;
  readonly bySlot: boolean;
  /** What a captured launch reads. */
  readonly owners: readonly Owner[];
  aim(appender: Appender): void;
  /** Errors: OptionError unless planes of so many pages hold all that is named. */
  fits?(pageCount: number, pageSize: number): void;
  /** Queues what the device lacks. */
  send?(stream: Stream): void;
  /** Looks at the indices. Errors: OptionError. */
  check(pageCount: number, pageSize: number): void;
  /** Errors: PlanError unless the step of a replay is one that the captured launch serves. */
  replayed?(): void;
}

/** Places in the caller's tensors. Errors: OptionError. */
function placesOfTensors(stream: Stream, options: AppendPagesOptions): Places {
  const { slotMapping, requests, positions, pageTable, indptr } = indicesOf(stream, options);
  const tokens = (slotMapping ?? positions)!.elements;
  const of = (requestCount: number) => {
    return { paddedTokens: tokens, tokenCount: tokens, requestCount };
  };
  if (slotMapping !== undefined) {
    return {
      step: of(1),
      tokenRequests: 0,
      bySlot: true,
      owners: [slotMapping],
      aim: (appender) => appender.bySlot(slotMapping.address),
      check: (pages, size) => {
        checkSlots(indexValues("slotMapping", options.slotMapping!), pages * size);
      },
    };
  }
  const table = tableOf(pageTable!, indptr);
  const named = [requests!, positions!, pageTable!];
  return {
    step: of(table.requests),
    tokenRequests: requests!.address,
    bySlot: false,
    owners: indptr === undefined ? named : [...named, indptr],
    aim: (appender) => appender.byTable(positions!.address, table),
    check: (pageCount, pageSize) => {
      // Those that were given: at a replay, the narrowed are those of the replay before.
      const indices = {
        requests: indexValues("requests", options.requests!),
        positions: indexValues("positions", options.positions!),
        pages: indexValues("pageTable", options.pageTable!),
        indptr: options.indptr ? indexValues("indptr", options.indptr) : undefined,
      };
      checkPlaces(indices, tokens, table, pageCount, pageSize);
    },
  };
}

/** Places of a step of page lists. Errors: OptionError, PlanError. */
function placesOfBatch(device: Device, options: AppendPagesOptions, batch: Batch): Places {
  requireBatch(batch);
  const lists = listsOf(batch);
  if (lists === undefined || lists.device !== device) {
    const allowed = "a step of page lists on the device of the pages";
    throw new OptionError("batch", batch, allowed, "use lists.step, or cache.append.");
  }
  for (const name of ["slotMapping", "requests", "positions", "pageTable", "indptr"] as const) {
    if ((options[name] ?? undefined) === undefined) continue;
    throw new OptionError(name, options[name], "left out beside a batch", "remove one of them.");
  }
  const { paddedTokens } = batch;
  const { tokenRequests, places, table } = lists.target;
  const requestCount = device.capturing ? table.requests : batch.requestCount;
  return {
    step: { paddedTokens, tokenCount: batch.tokenCount, requestCount },
    tokenRequests,
    bySlot: false,
    owners: [lists],
    aim: (appender) => appender.byTable(places, table),
    fits: (pageCount, pageSize) => lists.requireRoom("planes", pageCount, pageSize),
    send: (stream) => void lists.sync(lists.lastBatch!, stream),
    check: (pageCount, pageSize) => {
      const { tokenCount } = lists.lastBatch!;
      checkPlaces(lists.readTarget(), tokenCount, table, pageCount, pageSize);
    },
    replayed: () => lists.requirePadding(paddedTokens),
  };
}

/** Planes of one page size, apart from their rows. Errors: OptionError. */
function checkPlanes(planes: readonly Plane[], bySlot: boolean): void {
  const pageSize = planes[0].pages.shape[1];
  for (const [i, { pages, rows, scale }] of planes.entries()) {
    if (bySlot && scale?.shape.length === 2) {
      const fix = "pass requests, positions and pageTable instead of slotMapping.";
      const allowed = "scales by tensor, head or token: slots are of no request";
      throw new OptionError(`planes[${i}].scale`, scale.label, allowed, fix);
    }
    requireApart(`planes[${i}].pages`, pages, `planes[${i}].rows`, rows);
    if (pages.shape[1] === pageSize) continue;
    const allowed = `pages of ${pageSize} tokens, as the first plane's`;
    const fix = "give all planes pages of one size, or say the layout.";
    throw new OptionError(`planes[${i}].pages`, pages.label, allowed, fix);
  }
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

function appenderOf(device: Device, pageSize: number): Appender {
  let bySize = appenders.get(device);
  if (bySize === undefined) appenders.set(device, (bySize = new Map()));
  let appender = bySize.get(pageSize);
  if (appender === undefined) bySize.set(pageSize, (appender = new Appender(device, pageSize)));
  return appender;
}
