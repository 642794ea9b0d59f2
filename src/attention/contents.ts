/** What index tensors of a run hold: looked at before a kernel that would follow it anywhere. */
import type { Device } from "../device/device.ts";
import type { Memory } from "../device/memory.ts";
import { Owner } from "../device/owner.ts";
import type { Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { type AttentionParams, AttentionRecord, ContentsParams } from "../ffi/params.gen.ts";
import type { Batch } from "../kv/batch.ts";
import type { Plan } from "../plan/plan.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { pagesOf, pageTableOf, strideOf } from "./bind-keys.ts";
import { maskElements } from "./bind-mask.ts";
import type { ResolvedOptions } from "./options.ts";
import type { PlainTensors } from "./tensors.ts";

/** Of pages and of masks, the first entry that leads out and what it holds; all ones: none. */
const reportBytes = 16;
const none = 0xffff_ffff;
const params = new ContentsParams();

/**
 * Looks at mask offsets and page tables by a kernel in the order of the stream: outside of a graph
 * once for each plan, not in each layer; within one at each replay, whose attention reads a copy in
 * which entries that lead out are 0.
 */
export class Contents extends Owner {
  readonly #device: Device;
  readonly #options: ResolvedOptions;
  #report: Report | undefined;
  #plan = -1;
  #maskIndptr: Tensor | undefined;
  #pageTable: Tensor | undefined;
  #valueReport: Report | undefined;
  #valuePageTable: Tensor | undefined;

  constructor(device: Device, options: ResolvedOptions) {
    super("contents of index tensors");
    this.#device = device;
    this.#options = options;
  }

  /**
   * Waits for the stream, then throws unless kernels of the plan may follow every entry. `bound`
   * points at all that they read. Errors: OptionError naming the entry.
   */
  check(
    plan: Plan,
    batch: Batch,
    tensors: PlainTensors,
    stream: Stream,
    bound: AttentionParams,
  ): void {
    const pageTable = tableOf(batch, tensors);
    const maskIndptr = tensors.maskBits && tensors.maskIndptr;
    const { valuePageTable } = tensors;
    const isTables = pageTable === this.#pageTable && valuePageTable === this.#valuePageTable;
    const isSame = maskIndptr === this.#maskIndptr && isTables;
    if (isSame && plan.generation === this.#plan) return;
    this.#plan = -1;
    if (valuePageTable !== undefined) {
      this.#valueReport ??= new Report(this.#device);
      this.#lookAtValues(this.#valueReport, plan, stream, bound);
      stream.wait();
      this.#valueReport.requireValues(tensors);
    }
    if (pageTable !== undefined || maskIndptr !== undefined) {
      this.#report ??= new Report(this.#device);
      this.#look(this.#report, plan, stream, bound);
      stream.wait();
      this.#report.require(this.#options, batch, tensors);
    }
    this.#plan = plan.generation;
    this.#maskIndptr = maskIndptr;
    this.#pageTable = pageTable;
    this.#valuePageTable = valuePageTable;
  }

  /**
   * Captures the look, and lets `bound` read copies. What each replay has to call once it is queued
   * throws as check does.
   */
  capture(
    plan: Plan,
    batch: Batch,
    tensors: PlainTensors,
    stream: Stream,
    bound: AttentionParams,
  ): ((replayed: Batch) => void) | undefined {
    const pageTable = tableOf(batch, tensors);
    const maskIndptr = tensors.maskBits && tensors.maskIndptr;
    if (pageTable === undefined && maskIndptr === undefined) return undefined;
    const device = this.#device;
    const pages = pageTable && device.alloc(4 * pageTable.elements, "checked page table");
    const masks = maskIndptr && device.alloc(4 * maskIndptr.elements, "checked mask offsets");
    const report = new Report(device);
    const { valuePageTable } = tensors;
    const values = valuePageTable && device.alloc(4 * valuePageTable.elements, "checked pages");
    const valueReport = values && new Report(device);
    if (values !== undefined) {
      params.pagesEntries = valuePageTable!.elements;
      params.masksEntries = 0;
      this.#lookAtValues(valueReport!, plan, stream, bound, values);
    }
    params.pagesEntries = pageTable?.elements ?? 0;
    params.masksEntries = maskIndptr?.elements ?? 0;
    this.#look(report, plan, stream, bound, pages, masks);
    if (pages !== undefined) bound.pageTable = pages.address;
    if (masks !== undefined) bound.maskIndptr = masks.address;
    if (values !== undefined) bound.valuePageTable = values.address;
    bound.pagesSettled = 0;
    return (replayed) => {
      stream.wait();
      report.require(this.#options, replayed, tensors);
      valueReport?.requireValues(tensors);
      values?.guard();
      // The graph reads them as long as it can be replayed.
      pages?.guard();
      masks?.guard();
    };
  }

  protected override release(): void {
    this.#report?.[Symbol.dispose]();
    this.#valueReport?.[Symbol.dispose]();
  }

  #look(
    report: Report,
    plan: Plan,
    stream: Stream,
    bound: AttentionParams,
    pages?: Memory,
    masks?: Memory,
  ): void {
    params.attention.i32.set(bound.i32);
    this.#launch(report, plan, stream, bound, pages, masks);
  }

  /** The same of the page table of values, as if it were that of keys. */
  #lookAtValues(
    report: Report,
    plan: Plan,
    stream: Stream,
    bound: AttentionParams,
    pages?: Memory,
  ): void {
    const { attention } = params;
    attention.i32.set(bound.i32);
    attention.pageTable = bound.valuePageTable;
    attention.pageCount = bound.valuePageCount;
    attention.maskMode = 0;
    this.#launch(report, plan, stream, bound, pages);
  }

  #launch(
    report: Report,
    { launches, offsets }: Plan,
    stream: Stream,
    bound: AttentionParams,
    pages?: Memory,
    masks?: Memory,
  ): void {
    const kernel = this.#device.kernel("attention_contents");
    report.clear(stream);
    params.report = report.address;
    params.pagesCopy = pages?.address ?? 0;
    params.masksCopy = masks?.address ?? 0;
    const sections = bound.positions - 4 * offsets.positions;
    for (const { firstRecord, grid } of launches) {
      if (grid === 0) continue;
      params.attention.records =
        sections + 4 * offsets.records + firstRecord * AttentionRecord.byteLength;
      params.attention.recordCount = grid;
      this.#device.launch(stream, kernel, params, 1);
      // The first launch copied all.
      params.pagesEntries = params.masksEntries = 0;
    }
    report.fetch(stream);
  }
}

/** The page table that a run follows and nobody else looked at. */
function tableOf(batch: Batch, tensors: PlainTensors): Tensor | undefined {
  return tensors.k && pageTableOf(batch, tensors);
}

/** What kernels found, on the device and then on the host. */
class Report extends Owner {
  readonly #memory: Memory;
  readonly #fetched: Memory;

  constructor(device: Device) {
    super("report on index tensors");
    this.#memory = device.alloc(reportBytes, this.label);
    this.#fetched = device.alloc(reportBytes, this.label, true);
  }

  get address(): number {
    return this.#memory.address;
  }

  clear(stream: Stream): void {
    stream.fill(this.address, 0xff, reportBytes);
  }

  fetch(stream: Stream): void {
    stream.copy(this.#fetched.address, this.address, reportBytes);
  }

  /** Throws what the report says, once the stream was waited for. Errors: OptionError. */
  require(options: ResolvedOptions, batch: Batch, tensors: PlainTensors): void {
    const words = new Uint32Array(this.#fetched.hostBytes());
    const [page, pageEntry, start, request] = words;
    if (request !== none) refuseMask(options, batch, tensors.maskBits!, request, start | 0);
    if (pageEntry === none) return;
    const table = pageTableOf(batch, tensors)!;
    const { k, v, kTail } = tensors;
    refusePage("pageTable", table, pagesOf(options, k!, v!, kTail), pageEntry, page | 0);
  }

  /** The same of the page table of values. */
  requireValues({ v, valuePageTable }: PlainTensors): void {
    const [page, entry] = new Uint32Array(this.#fetched.hostBytes());
    if (entry === none) return;
    refusePage("valuePageTable", valuePageTable!, v!.shape[0], entry, page | 0);
  }

  protected override release(): void {
    this.#memory[Symbol.dispose]();
    this.#fetched[Symbol.dispose]();
  }
}

function refuseMask(
  options: ResolvedOptions,
  batch: Batch,
  { dtype, elements, label }: Tensor,
  request: number,
  start: number,
): never {
  const count = maskElements(options, batch, request, dtype !== "bool");
  const takes = `request ${request} takes ${count} elements of ${label}`;
  const allowed = `0 to ${elements - count}: ${takes}`;
  const fix = "add up what the masks of the requests before it take.";
  throw new OptionError(`maskIndptr[${request}]`, start, allowed, fix);
}

function refusePage(
  option: string,
  pageTable: Tensor,
  pages: number,
  entry: number,
  page: number,
): never {
  const stride = strideOf(pageTable);
  const isList = pageTable.shape.length === 1;
  const at = isList ? entry : `${Math.floor(entry / stride)}, ${entry % stride}`;
  const fix = "give every column that the layout reads a page of k and v.";
  throw new OptionError(`${option}[${at}]`, page, `a page from 0 to ${pages - 1}`, fix);
}
