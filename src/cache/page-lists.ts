import { requireDevice } from "../device/context.ts";
import type { Device } from "../device/device.ts";
import type { Memory } from "../device/memory.ts";
import { Owner } from "../device/owner.ts";
import { PinnedRing } from "../device/ring.ts";
import type { Stream } from "../device/stream.ts";
import { OptionError, PlanError } from "../errors.ts";
import { type Batch, requireBatch } from "../kv/batch.ts";
import { type HostLists, UserSteps } from "../kv/user-steps.ts";
import { type Integers, maxInt32 } from "../kv/validate.ts";
import { requireInteger, requireList, requireOptions } from "../require.ts";
import { counted } from "../shown.ts";
import { requireNarrow } from "../tensor/indices.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { AppendTable } from "./append.ts";
import {
  levelNames,
  type PageListLevel,
  type PageListsOptions,
  type PageStepOptions,
  requireAlone,
  sizeNames,
  stepNames,
} from "./page-list-options.ts";
import { refuseCapture } from "./step-upload.ts";

/**
 * Page lists of the caller, step after step, on the device: what its own block manager allots.
 * `step` makes the batch that is planned; `appendPages({ planes, batch })` writes its new tokens,
 * and `run({ q, k, v, out })` reads it. Both can be captured: a replay takes the step of its time.
 */
export class PageLists extends Owner {
  readonly options: PageListsOptions;
  /** @internal i32 [maxEntries]: page ids of the step. */
  readonly table: Tensor;
  readonly #steps: UserSteps;
  readonly #memory: Memory;
  readonly #ring: PinnedRing;
  /** Of the last step, by level: page ids that lie on the device. */
  #onDevice: (Tensor | undefined)[] = [];
  #lastBatch: Batch | undefined;
  #sent = -1;
  /** Where the rows of a table of so many columns begin, and the end of the last. */
  #tableStarts = new Int32Array(0);
  #tableColumns = -1;

  private constructor(
    readonly device: Device,
    options: PageListsOptions,
  ) {
    super("page lists");
    this.options = { ...options };
    this.#steps = new UserSteps(this, options);
    this.#ring = new PinnedRing(device, "page lists upload ring");
    this.#memory = device.alloc(4 * (this.#headInts + options.maxEntries), this.label);
    const address = this.#memory.address + 4 * this.#headInts;
    this.table = Tensor.fromPointer(device, address, [options.maxEntries], "i32", {
      keep: this.#memory,
    });
  }

  /** Makes room for steps of these sizes. Errors: OptionError, OutOfMemoryError. */
  static create(device: Device, options: PageListsOptions): PageLists {
    requireDevice(device);
    requireOptions("options", options, sizeNames);
    for (const name of sizeNames) requireInteger(name, options[name], 1, 1 << 26);
    const { pageSize, pageCount } = options;
    requireInteger("pageCount", pageCount, 1, Math.floor(maxInt32 / pageSize));
    return new PageLists(device, options);
  }

  /** The batch of the last step, if there was one. */
  get lastBatch(): Batch | undefined {
    return this.#lastBatch;
  }

  /**
   * The next step: its lists are checked where they lie on the host, and the batch of the step
   * before is stale. Lengths and indptr in tensors are read back, which waits for the default
   * stream; page ids in tensors stay where they are, until the step's first use copies them.
   * Errors: OptionError, and then nothing has changed.
   */
  step(options: PageStepOptions): Batch {
    this.guard();
    refuseCapture(this.device, "step");
    requireOptions("options", options, stepNames);
    const { shared = [], share, writes = true, keyPositions = false, padTo } = options;
    if (!Array.isArray(shared))
      throw new OptionError("shared", shared, "a list of levels", "pass [{ queryIndptr, ... }].");
    if (share !== undefined && typeof share !== "function")
      throw new OptionError("share", share, "a function", "pass attention.worthSharing.");
    if (typeof keyPositions !== "boolean")
      throw new OptionError("keyPositions", keyPositions, "true or false", "say one.");
    if (share !== undefined && (shared.length > 0 || options.indices instanceof Tensor)) {
      const fix = "give the shared levels, or lists that lie on the host.";
      throw new OptionError("share", "given", "left out beside levels or page ids in tensors", fix);
    }
    const levels = Array.from(shared, (level: PageListLevel, i) => {
      requireOptions(`shared[${i}]`, level, levelNames);
      return this.#onHost(`shared[${i}].`, level);
    });
    const own = this.#onHost("", options);
    const positions = this.#numbers("positions", options.positions);
    const raggedStarts = options.raggedStarts ?? undefined;
    if (raggedStarts !== undefined) requireAlone(shared.length > 0, share !== undefined, writes);
    const asked = { writes, padTo, share, positions, keyPositions, raggedStarts };
    const batch = this.#steps.step(levels, own, asked);
    const given = [...shared, options].map(({ indices }) => indices);
    this.#onDevice = given.map((indices) => (indices instanceof Tensor ? indices : undefined));
    return (this.#lastBatch = batch);
  }

  /**
   * @internal Sends the step to the device, unless that was done. Returns whether it queued
   * anything. Errors: PlanError for a batch of another owner, or in a capture.
   */
  sync(batch: Batch, stream: Stream): boolean {
    this.guard();
    requireBatch(batch);
    if (batch.owner !== this)
      throw new PlanError("the batch is of other page lists. Fix: use that of their last step.");
    if (batch.generation === this.#sent) return false;
    refuseCapture(this.device, "the first use of a step");
    const { bases } = this.#steps;
    const isOnHost = this.#onDevice.some((indices) => indices === undefined);
    const ints = this.#headInts + (isOnHost ? bases[bases.length - 1] : 0);
    this.#write(this.#ring.take(ints).i32, isOnHost);
    this.#ring.upload(stream, this.#memory.address, ints);
    for (const [l, indices] of this.#onDevice.entries())
      if (indices !== undefined) this.#copy(indices, bases[l], bases[l + 1], stream);
    this.#sent = batch.generation;
    return true;
  }

  /** @internal Where the tokens of a step go; PlanError where it writes none. */
  get target(): { tokenRequests: number; places: number; table: AppendTable } {
    if (!this.#steps.writes)
      throw new PlanError("the step writes nothing. Fix: leave out writes: false.");
    const { maxBatch, maxQueryTokens, maxEntries } = this.options;
    const { address } = this.#memory;
    return {
      tokenRequests: address,
      places: address + 4 * maxQueryTokens,
      table: {
        address: this.table.address,
        entries: maxEntries,
        stride: 0,
        indptr: address + 4 * 2 * maxQueryTokens,
        requests: maxBatch,
      },
    };
  }

  /** @internal Errors: OptionError unless pages of so many tokens are as the options say. */
  requireRoom(option: string, pageCount: number, pageSize: number): void {
    const { options } = this;
    if (pageCount >= options.pageCount && pageSize === options.pageSize) return;
    const given = `${pageCount} pages of ${pageSize} tokens`;
    const allowed = `${options.pageCount} pages or more of ${options.pageSize} tokens`;
    throw new OptionError(option, given, allowed, "create the page lists for these pages.");
  }

  /** @internal Errors: PlanError unless the last step holds as many padded tokens as captured. */
  requirePadding(captured: number): void {
    const { paddedTokens } = this.#lastBatch!;
    if (paddedTokens === captured) return;
    throw new PlanError(
      `the step holds ${paddedTokens} padded tokens, the capture ${captured}. ` +
        `Fix: make the step with { padTo: ${captured} }.`,
    );
  }

  /** @internal What `target` points at, on the host; page ids are read back. */
  readTarget() {
    const { arrays, places, rowIndptr } = this.#steps;
    const pages = new Int32Array(this.table.toBytes().buffer);
    return { requests: arrays.tokenRequests, positions: places, pages, indptr: rowIndptr };
  }

  /** @internal */
  override toString(): string {
    const { pageSize, pageCount, maxBatch } = this.options;
    const pages = `${counted(pageCount, "page")} of ${counted(pageSize, "token")}`;
    const what = `PageLists on ${this.device.label}: ${pages}, ${counted(maxBatch, "request")}`;
    return `${what}${this.gone ? " (disposed)" : ""}`;
  }

  /** @internal Throws DisposedError when the lists or their device were disposed. */
  override guard(): void {
    super.guard();
    this.device.guard();
  }

  protected override release(): void {
    this.#memory[Symbol.dispose]();
    this.#ring[Symbol.dispose]();
  }

  /** Ints before the page ids: token requests, places, and each request's stretch of page ids. */
  get #headInts(): number {
    const { maxQueryTokens, maxBatch } = this.options;
    return 2 * maxQueryTokens + 16 * Math.ceil((maxBatch + 1) / 16);
  }

  #write(into: Int32Array, isOnHost: boolean): void {
    const { arrays, places, rowIndptr, entries, bases } = this.#steps;
    const { maxQueryTokens } = this.options;
    const { paddedTokens, requestCount, tokenRequests } = arrays;
    for (let token = 0; token < paddedTokens; token++) {
      into[token] = tokenRequests[token];
      into[maxQueryTokens + token] = places[token];
    }
    for (let r = 0; r <= requestCount; r++) into[2 * maxQueryTokens + r] = rowIndptr[r];
    if (isOnHost) into.set(entries.subarray(0, bases[bases.length - 1]), this.#headInts);
  }

  /** Queues the copy of page ids to entries [from, to). */
  #copy(indices: Tensor, from: number, to: number, stream: Stream): void {
    indices.requireOn(this.device, "indices");
    if (from === to) return;
    if (indices.dtype === "i32" && indices.contiguous)
      return stream.copy(this.table.address + 4 * from, indices.address, 4 * (to - from));
    const columns = indices.shape.length === 1 ? 1 : indices.shape[1];
    const rows = indices.slice(0, 0, (to - from) / columns);
    requireNarrow("indices", rows, stream);
    const target = this.table.slice(0, from, to).reshape(...rows.shape);
    target.copyFrom(rows, stream);
  }

  /** A level with its lengths on the host. */
  #onHost(option: string, level: PageListLevel): HostLists {
    const { indices } = level;
    const lists = {
      queryIndptr: this.#numbers(`${option}queryIndptr`, level.queryIndptr)!,
      indptr: this.#numbers(`${option}indptr`, level.indptr)!,
      lastPageLength: this.#numbers(`${option}lastPageLength`, level.lastPageLength),
      kvLengths: this.#numbers(`${option}kvLengths`, level.kvLengths),
    };
    if (!(indices instanceof Tensor)) return { ...lists, indices };
    indices.requireOn(this.device, `${option}indices`);
    const { shape, dtype, label, elements } = indices;
    const isTable = shape.length === 2 && (level.indptr ?? null) === null;
    if ((dtype !== "i32" && dtype !== "i64") || (!isTable && shape.length !== 1)) {
      const allowed = "an i32 or i64 tensor [pages] with indptr, or [rows, columns] without";
      throw new OptionError(`${option}indices`, label, allowed, "reshape or convert it.");
    }
    if (isTable && lists.kvLengths === undefined) {
      const allowed = "given beside a table [rows, columns], whose rows have pages to spare";
      throw new OptionError(
        `${option}kvLengths`,
        undefined,
        allowed,
        "pass the tokens of each row.",
      );
    }
    if (isTable) {
      const rows = Math.max(0, requireList(`${option}queryIndptr`, lists.queryIndptr) - 1);
      if (shape[0] < rows) {
        const fix = "give each row of query tokens its pages.";
        throw new OptionError(`${option}indices`, label, `[${rows} or more, columns]`, fix);
      }
      return { ...lists, indptr: this.#startsOf(rows, shape[1]), indices: null };
    }
    const used = Number(lists.indptr?.[lists.indptr.length - 1] ?? 0);
    if (used <= elements) return { ...lists, indices: null };
    const fix = "give as many page ids as indptr says.";
    throw new OptionError(`${option}indices`, label, `${used} elements or more`, fix);
  }

  /** Where the rows of a table begin, and the end of the last: until the next call. */
  #startsOf(rows: number, columns: number): Int32Array {
    const starts = this.#tableStarts;
    if (starts.length === rows + 1 && this.#tableColumns === columns) return starts;
    this.#tableColumns = columns;
    return (this.#tableStarts = Int32Array.from({ length: rows + 1 }, (_, row) => row * columns));
  }

  /** The numbers of a list, or of a tensor, read back. */
  #numbers(option: string, given: Integers | Tensor | null | undefined): Integers | undefined {
    if (!(given instanceof Tensor)) return given ?? undefined;
    given.requireOn(this.device, option);
    if (given.dtype === "i32" || given.dtype === "i64")
      return given.toTypedArray() as Int32Array | BigInt64Array;
    throw new OptionError(option, given.label, "an i32 or i64 tensor", "convert it.");
  }
}

/** The page lists that a batch is of, if it is of some. */
export function listsOf({ owner }: Batch): PageLists | undefined {
  return owner instanceof PageLists ? owner : undefined;
}
