import { PlanError } from "../errors.ts";
import { type Batch, requireBatch } from "../kv/batch.ts";
import type { Level } from "../kv/layout.ts";
import { KeysOfBatch } from "./check-keys.ts";
import { checkPlannerOptions, type PlannerOptions } from "./options.ts";
import { type Plan, requirePlan } from "./plan.ts";
import { attentionRecordInts, mergeRecordInts } from "./record.gen.ts";
import { mergesOf, type PlanRecord, recordsOf } from "./record.ts";
import { partialBytes } from "./workspace.ts";

/** A part of one packed row's keys, as a record has it. */
interface Part {
  level: number;
  kvStart: number;
  kvEnd: number;
  partialRow: number;
  columnOffset: number;
}

/**
 * Proves a plan of one batch: every (query row, head, visible key) is covered exactly once,
 * ranges called full are visible to all their rows, sections lie in bounds, partial rows are
 * disjoint, the workspace is exact, and merges list every part in the order of level and key. What
 * a variant's visible() names for a single query must be covered in its tile. `options` are those
 * that the plan was made with. Errors: PlanError that says what is wrong, OptionError.
 */
export function checkPlan(plan: Plan, batch: Batch, options: PlannerOptions): void {
  requirePlan(plan);
  requireBatch(batch);
  checkPlannerOptions(options);
  new Proof(plan, batch, options).run();
}

class Proof {
  readonly #parts = new Map<number, Part[]>();
  readonly #partials = new Set<number>();
  readonly #keys: KeysOfBatch;
  readonly #group: number;
  readonly #rows: number;

  constructor(
    readonly plan: Plan,
    readonly batch: Batch,
    readonly options: PlannerOptions,
  ) {
    this.#keys = new KeysOfBatch(plan, batch, options);
    this.#group = options.queryHeads / options.kvHeads;
    this.#rows = batch.tokenCount * this.#group;
  }

  run(): void {
    this.#sections();
    for (const record of recordsOf(this.plan)) this.#record(record);
    this.#merges();
    for (let kvHead = 0; kvHead < this.options.kvHeads; kvHead++) {
      for (let row = 0; row < this.#rows; row++) this.#row(kvHead, row);
    }
    must(this.#partials.size === this.plan.partialRows, "partial rows are counted exactly");
    const { workspaceBytes, partialCapacity, boundBytes } = this.plan;
    const exact = partialBytes(partialCapacity, this.options.valueDim);
    const { graph } = this.options;
    must(graph !== undefined || partialCapacity === this.plan.partialRows, "no spare rows");
    must(
      workspaceBytes === exact && partialCapacity >= this.plan.partialRows,
      "workspace is exact",
    );
    if (this.batch.layout.levels.length > 1 || this.options.batchInvariant) return;
    must(partialBytes(this.plan.partialRows, this.options.valueDim) <= boundBytes, "bound holds");
  }

  #sections(): void {
    const { offsets, sectionInts, sections, mergeCount, recordCount } = this.plan;
    const starts = Object.values(offsets) as number[];
    must(sectionInts <= sections.length, "sections fit");
    must(
      starts.every((at, i) => at % 16 === 0 && at >= (starts[i - 1] ?? 0)),
      "sections in order",
    );
    must(
      offsets.records + recordCount * attentionRecordInts <= offsets.merges,
      "records in bounds",
    );
    must(offsets.merges + mergeCount * mergeRecordInts <= offsets.parts, "merges in bounds");
    must(offsets.columns <= sectionInts, "columns in bounds");
    must(sectionInts <= this.plan.capacityInts, "the device has room");
    const { batch } = this;
    for (const [at, source, count] of [
      [offsets.positions, batch.positions, batch.paddedTokens],
      [offsets.tokenRequests, batch.tokenRequests, batch.paddedTokens],
      [offsets.queryIndptr, batch.queryIndptr, batch.requestCount + 1],
      [offsets.kvLengths, batch.kvLengths, batch.requestCount],
    ] as const) {
      for (let i = 0; i < count; i++) must(sections[at + i] === source[i], "the batch is copied");
    }
  }

  #record(record: PlanRecord): void {
    const { kvHead, rowStart, rowCount, kvStart, kvEnd, fullStart, fullEnd } = record;
    const traits = this.options.classes.find(({ name }) => name === record.kernelClass);
    must(traits !== undefined, `the class ${record.kernelClass} is one of the options'`);
    must(rowCount > 0 && rowCount <= traits.queryTile, "a record's rows fit its class");
    must(rowStart >= 0 && rowStart + rowCount <= this.#rows, "a record's rows are in the batch");
    must(kvHead >= 0 && kvHead < this.options.kvHeads, "KV head");
    must(record.queryHeadStart === kvHead * this.#group, "first query head");
    must(record.queryHeadCount === this.#group, "query heads");
    must(kvStart <= fullStart && fullStart <= fullEnd && fullEnd <= kvEnd, "full lies in range");
    if (kvStart < kvEnd) this.#rowOf(record);
    for (let row = rowStart; row < rowStart + rowCount; row++) {
      let partialRow = -1;
      if (record.partialRow >= 0) {
        partialRow = record.partialRow + row - rowStart;
        must(partialRow < this.plan.partialRows, "partial rows in bounds");
        must(!this.#partials.has(partialRow), "partial rows are disjoint");
        this.#partials.add(partialRow);
      }
      const key = kvHead * this.#rows + row;
      const parts = this.#parts.get(key) ?? [];
      const { level, columnOffset } = record;
      parts.push({ level, kvStart, kvEnd, partialRow, columnOffset });
      this.#parts.set(key, parts);
      this.#full(record, row);
    }
  }

  /** Full keys are seen by the row, and no mask has a say. */
  #full(record: PlanRecord, row: number): void {
    const { fullStart, fullEnd } = record;
    if (fullStart >= fullEnd) return;
    const { visible, hookMasks } = this.options;
    must(visible !== undefined || !hookMasks, "a mask that nobody knows leaves nothing full");
    const { causal = false, windowLeft = -1 } = this.options;
    const decides = causal || windowLeft >= 0;
    const step = visible === undefined ? Math.max(1, fullEnd - 1 - fullStart) : 1;
    const named = visible && this.#keys.named(row);
    for (let kept = fullStart; kept < fullEnd; kept += step) {
      const position = this.#keys.position(record, kept);
      must(this.#keys.sees(position, row), "full keys are visible");
      must(!decides || !this.#keys.moved(position, row), "full keys stand at their places");
      must(named === undefined || named.has(position), "full keys are named by visible()");
      must(this.#keys.unmasked(record, row, position), "full keys need no mask");
    }
  }

  /** The record says of its layout row what the layout says. */
  #rowOf(record: PlanRecord): void {
    const level = this.batch.layout.levels[record.level];
    const row = this.#keys.layoutRow(level, record.kvHead, record.rowStart);
    const last = this.#keys.layoutRow(level, record.kvHead, record.rowStart + record.rowCount - 1);
    must(row >= 0 && row === last, "a record stays in one layout row");
    must(record.slot === level.slots[row], "slot");
    must(record.positionStart === level.positionStarts[row], "position");
    must(record.kvStart >= 0 && record.kvEnd <= level.kvLengths[row], "keys are in the row");
    const own = this.#keys.columnBase(this.batch.layout.levels.length);
    if (record.columnOffset >= own && this.options.visible !== undefined)
      return this.#listOf(record, level, row);
    if (level.columns === null)
      return must(record.columnOffset === -1, "dense rows have no columns");
    const columns = this.#keys.columnBase(record.level) + level.columnIndptr![row];
    must(record.columnOffset === columns, "a sparse record points at its row's columns");
    const at = this.plan.offsets.columns + record.columnOffset;
    for (let c = level.columnIndptr![row]; c < level.columnIndptr![row + 1]; c++) {
      const copied = this.plan.sections[at + c - level.columnIndptr![row]];
      const kept = this.options.hookMasks ? ~1 : ~0;
      must(copied === (level.columns[c] & kept), "columns are copied");
    }
  }

  /** The list of a narrowed tile names columns of its row, each once, rising. */
  #listOf({ columnOffset, kvEnd }: PlanRecord, level: Level, row: number): void {
    const { sections, offsets, sectionInts } = this.plan;
    const { blockSize } = this.batch.layout;
    const count = Math.ceil(kvEnd / blockSize);
    must(offsets.columns + columnOffset + count <= sectionInts, "a list lies in bounds");
    let before = -1;
    let tokens = 0;
    for (let i = 0; i < count; i++) {
      const column = sections[offsets.columns + columnOffset + i] >> 1;
      must(column > before, "a list rises");
      before = column;
      tokens = this.#keys.tokensOf(level, row, column);
      must(tokens === blockSize || i === count - 1, "a list's last column alone is cut short");
    }
    must(kvEnd <= (count - 1) * blockSize + tokens, "a list's keys are in the row");
  }

  #merges(): void {
    const merged = new Set<number>();
    for (const merge of mergesOf(this.plan)) {
      const { queryHeadStart, queryHeadCount, rowStart, rowCount } = merge;
      must(queryHeadCount === this.#group && merge.partCount > 0, "a merge has heads and parts");
      for (let row = rowStart; row < rowStart + rowCount; row++) {
        const key = (queryHeadStart / queryHeadCount) * this.#rows + row;
        must(!merged.has(key), "a row is merged once");
        merged.add(key);
        const parts = (this.#parts.get(key) ?? []).sort(inOrder);
        must(parts.length === merge.partCount, "a merge lists every part");
        for (const [p, partialRow] of merge.parts.entries()) {
          const own = partialRow + row - rowStart;
          must(parts[p].partialRow === own, "parts merge in the order of level and key");
        }
      }
    }
    if (this.plan.mergedByKernels) this.#arrivals();
    for (const [key, parts] of this.#parts) {
      const direct = parts.length === 1 && parts[0].partialRow < 0;
      must(direct !== merged.has(key), "a row is written once");
    }
  }

  /** As kernels count them, from a record's first merge on, every merge gets all its parts. */
  #arrivals(): void {
    const merges = mergesOf(this.plan);
    const arrived = new Array<number>(merges.length).fill(0);
    for (const record of recordsOf(this.plan)) {
      const { firstMerge, partialRow, queryHeadStart, rowStart, rowCount } = record;
      must(firstMerge >= 0 === partialRow >= 0, "partial rows have a merge");
      for (let m = firstMerge; m >= 0 && m < merges.length; m++) {
        const merge = merges[m];
        if (merge.queryHeadStart !== queryHeadStart || merge.rowStart >= rowStart + rowCount) break;
        must(merge.rowStart >= rowStart, "a record's merges begin in its rows");
        arrived[m]++;
      }
    }
    for (const [m, { partCount }] of merges.entries())
      must(arrived[m] === partCount, "every part of a merge is counted once");
  }

  /** Every visible key of the row is in exactly one of its parts. */
  #row(kvHead: number, row: number): void {
    const parts = (this.#parts.get(kvHead * this.#rows + row) ?? []).sort(inOrder);
    must(parts.length > 0, "every row is written");
    for (const [l, level] of this.batch.layout.levels.entries()) {
      const own = parts.filter((part) => part.level === l && part.kvStart < part.kvEnd);
      for (let i = 1; i < own.length; i++) {
        must(own[i].kvStart >= own[i - 1].kvEnd, "parts do not overlap");
      }
      const layoutRow = this.#keys.layoutRow(level, kvHead, row);
      if (layoutRow < 0) continue;
      if (this.options.visible !== undefined) this.#coversNamed(l, layoutRow, row, own);
      else if (level.columns === null) this.#coversDense(level, layoutRow, row, own);
      else this.#coversSparse(l, layoutRow, row, own);
    }
  }

  /** A dense row's visible keys are one range: the parts must leave no gap in it. */
  #coversDense(level: Level, layoutRow: number, row: number, own: Part[]): void {
    const { causal = false, windowLeft = -1 } = this.options;
    const query = this.batch.positions[Math.floor(row / this.#group)];
    const origin = level.positionStarts[layoutRow];
    const length = level.kvLengths[layoutRow];
    let end = causal ? Math.min(length, query - origin + 1) : length;
    let at = windowLeft < 0 ? 0 : Math.max(0, query - windowLeft - origin);
    for (let kept = length - 1; kept >= 0 && this.#keys.moved(origin + kept, row); kept--) {
      end = length;
      at = Math.min(at, kept);
    }
    for (const { kvStart, kvEnd } of own) {
      if (kvStart <= at && at < kvEnd) at = kvEnd;
    }
    must(at >= end, `key ${at} of row ${row} is covered`);
  }

  #coversSparse(l: number, layoutRow: number, row: number, own: Part[]): void {
    const record = this.#keys.rowOf(l, layoutRow);
    const length = this.batch.layout.levels[l].kvLengths[layoutRow];
    for (let kept = 0; kept < length; kept++) {
      if (own.some(({ kvStart, kvEnd }) => kvStart <= kept && kept < kvEnd)) continue;
      const position = this.#keys.position(record, kept);
      const hidden = !this.#keys.sees(position, row) && !this.#keys.moved(position, row);
      must(hidden, `kept key ${kept} of row ${row} is covered`);
    }
  }

  /** Keys that visible() names and the layout row keeps are covered, each once. */
  #coversNamed(l: number, layoutRow: number, row: number, own: Part[]): void {
    const level = this.batch.layout.levels[l];
    const whole = this.#keys.rowOf(l, layoutRow);
    const covered = new Set<number>();
    for (const { kvStart, kvEnd, columnOffset } of own) {
      for (let kept = kvStart; kept < kvEnd; kept++) {
        const position = this.#keys.position({ ...whole, columnOffset }, kept);
        must(!covered.has(position), `key ${position} of row ${row} is covered once`);
        covered.add(position);
      }
    }
    const named = this.options.deviceLengths ? undefined : this.#keys.named(row);
    for (let kept = 0; kept < level.kvLengths[layoutRow]; kept++) {
      const position = this.#keys.position(whole, kept);
      const seen = this.#keys.sees(position, row) && (named?.has(position) ?? true);
      const needed = seen || this.#keys.moved(position, row);
      must(!needed || covered.has(position), `key ${position} of row ${row} is covered`);
    }
  }
}

function inOrder(a: Part, b: Part): number {
  return a.level - b.level || a.kvStart - b.kvStart;
}

function must(holds: boolean, what: string): asserts holds {
  if (!holds) throw new PlanError(`the plan breaks a rule: ${what}. Fix: report it.`);
}
