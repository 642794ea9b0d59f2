import type { Batch } from "../kv/batch.ts";
import type { Level } from "../kv/layout.ts";
import type { Plan, PlannerOptions } from "./attention.ts";
import { mergeInts, recordInts } from "./emit.ts";
import { partialBytes } from "./workspace.ts";

/** A part of one packed row's keys, as a record has it. */
interface Part {
  level: number;
  kvStart: number;
  kvEnd: number;
  partialRow: number;
}

/** A record read back from a plan. */
export interface PlanRecord {
  kernelClass: string;
  kvHead: number;
  unit: number;
  heads: number;
  rowStart: number;
  rowCount: number;
  slot: number;
  kvStart: number;
  kvEnd: number;
  fullStart: number;
  fullEnd: number;
  positionStart: number;
  columnOffset: number;
  partialRow: number;
  request: number;
  level: number;
}

/** The records of a plan that have rows, in order. */
export function recordsOf(plan: Plan): PlanRecord[] {
  const records: PlanRecord[] = [];
  for (const { kernelClass, firstRecord, recordCount } of plan.launches) {
    for (let i = firstRecord; i < firstRecord + recordCount; i++) {
      const at = plan.offsets.records + i * recordInts;
      const field = plan.sections.subarray(at, at + recordInts);
      records.push({
        kernelClass,
        kvHead: field[0],
        unit: field[1] / field[2],
        heads: field[2],
        rowStart: field[3],
        rowCount: field[4],
        slot: field[5],
        kvStart: field[6],
        kvEnd: field[7],
        fullStart: field[8],
        fullEnd: field[9],
        positionStart: field[10],
        columnOffset: field[11],
        partialRow: field[12],
        request: field[13],
        level: field[14],
      });
    }
  }
  return records;
}

/**
 * Proves a plan of one batch: every (query row, head, visible key) is covered exactly once,
 * ranges called full are visible to all their rows, sections lie in bounds, partial rows are
 * disjoint, the workspace is exact, and merges list every part in the order of level and key.
 * Throws an Error that says what is wrong.
 */
export function checkPlan(plan: Plan, batch: Batch, options: PlannerOptions): void {
  new Proof(plan, batch, options).run();
}

class Proof {
  readonly #parts = new Map<number, Part[]>();
  readonly #partials = new Set<number>();
  readonly #packed: number;
  readonly #units: number;
  readonly #rows: number;

  constructor(
    readonly plan: Plan,
    readonly batch: Batch,
    readonly options: PlannerOptions,
  ) {
    const group = options.queryHeads / options.kvHeads;
    this.#packed = options.classes[0].packing === "group" ? group : 1;
    this.#units = options.queryHeads / this.#packed;
    this.#rows = batch.tokenCount * this.#packed;
  }

  run(): void {
    this.#sections();
    for (const record of recordsOf(this.plan)) this.#record(record);
    this.#merges();
    for (let unit = 0; unit < this.#units; unit++) {
      for (let row = 0; row < this.#rows; row++) this.#row(unit, row);
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
    must(offsets.records + recordCount * recordInts <= offsets.merges, "records in bounds");
    must(offsets.merges + mergeCount * mergeInts <= offsets.parts, "merges in bounds");
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
    const { unit, rowStart, rowCount, kvStart, kvEnd, fullStart, fullEnd } = record;
    const traits = this.options.classes.find(({ name }) => name === record.kernelClass)!;
    must(rowCount > 0 && rowCount <= traits.queryTile, "a record's rows fit its class");
    must(rowStart >= 0 && rowStart + rowCount <= this.#rows, "a record's rows are in the batch");
    must(unit >= 0 && unit < this.#units && record.heads === this.#packed, "heads");
    must(record.kvHead === Math.floor((unit * this.options.kvHeads) / this.#units), "KV head");
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
      const key = unit * this.#rows + row;
      const parts = this.#parts.get(key) ?? [];
      parts.push({ level: record.level, kvStart, kvEnd, partialRow });
      this.#parts.set(key, parts);
      for (const kept of [fullStart, Math.max(fullStart, fullEnd - 1)]) {
        if (fullStart >= fullEnd) continue;
        must(this.#sees(record, row, kept), "full keys are visible");
        must(this.#unmasked(record, row, kept), "full keys need no mask");
      }
    }
  }

  /** The record says of its layout row what the layout says. */
  #rowOf(record: PlanRecord): void {
    const level = this.batch.layout.levels[record.level];
    const row = this.#layoutRow(level, record.kvHead, record.rowStart);
    const last = this.#layoutRow(level, record.kvHead, record.rowStart + record.rowCount - 1);
    must(row >= 0 && row === last, "a record stays in one layout row");
    must(record.slot === level.slots[row], "slot");
    must(record.positionStart === level.positionStarts[row], "position");
    must(record.kvStart >= 0 && record.kvEnd <= level.kvLengths[row], "keys are in the row");
    if (level.columns === null)
      return must(record.columnOffset === -1, "dense rows have no columns");
    const columns = this.#columnBase(record.level) + level.columnIndptr![row];
    must(record.columnOffset === columns, "a sparse record points at its row's columns");
    const at = this.plan.offsets.columns + record.columnOffset;
    for (let c = level.columnIndptr![row]; c < level.columnIndptr![row + 1]; c++) {
      const copied = this.plan.sections[at + c - level.columnIndptr![row]];
      must(copied === level.columns[c], "columns are copied");
    }
  }

  #merges(): void {
    const { plan } = this;
    const merged = new Set<number>();
    for (let m = 0; m < plan.mergeCount; m++) {
      const at = plan.offsets.merges + m * mergeInts;
      const [head, heads, rowStart, rowCount, partStart, partCount] = plan.sections.subarray(at);
      must(heads === this.#packed && partCount > 0, "a merge has heads and parts");
      for (let row = rowStart; row < rowStart + rowCount; row++) {
        const key = (head / heads) * this.#rows + row;
        must(!merged.has(key), "a row is merged once");
        merged.add(key);
        const parts = (this.#parts.get(key) ?? []).sort(inOrder);
        must(parts.length === partCount, "a merge lists every part");
        for (let p = 0; p < partCount; p++) {
          const partial = plan.sections[plan.offsets.parts + partStart + p] + row - rowStart;
          must(parts[p].partialRow === partial, "parts merge in the order of level and key");
        }
      }
    }
    for (const [key, parts] of this.#parts) {
      const direct = parts.length === 1 && parts[0].partialRow < 0;
      must(direct !== merged.has(key), "a row is written once");
    }
  }

  /** Every visible key of the row is in exactly one of its parts. */
  #row(unit: number, row: number): void {
    const parts = (this.#parts.get(unit * this.#rows + row) ?? []).sort(inOrder);
    must(parts.length > 0, "every row is written");
    const kvHead = Math.floor((unit * this.options.kvHeads) / this.#units);
    for (const [l, level] of this.batch.layout.levels.entries()) {
      const own = parts.filter((part) => part.level === l && part.kvStart < part.kvEnd);
      for (let i = 1; i < own.length; i++) {
        must(own[i].kvStart >= own[i - 1].kvEnd, "parts do not overlap");
      }
      const layoutRow = this.#layoutRow(level, kvHead, row);
      if (layoutRow < 0) continue;
      if (level.columns === null) this.#coversDense(level, layoutRow, row, own);
      else this.#coversSparse(l, layoutRow, row, own);
    }
  }

  /** A dense row's visible keys are one range: the parts must leave no gap in it. */
  #coversDense(level: Level, layoutRow: number, row: number, own: Part[]): void {
    const { causal = false, windowLeft = -1 } = this.options;
    const query = this.batch.positions[Math.floor(row / this.#packed)];
    const origin = level.positionStarts[layoutRow];
    const length = level.kvLengths[layoutRow];
    const end = causal ? Math.min(length, query - origin + 1) : length;
    let at = windowLeft < 0 ? 0 : Math.max(0, query - windowLeft - origin);
    for (const { kvStart, kvEnd } of own) {
      if (kvStart <= at && at < kvEnd) at = kvEnd;
    }
    must(at >= end, `key ${at} of row ${row} is covered`);
  }

  #coversSparse(l: number, layoutRow: number, row: number, own: Part[]): void {
    const record = this.#asRecord(l, layoutRow);
    const length = this.batch.layout.levels[l].kvLengths[layoutRow];
    for (let kept = 0; kept < length; kept++) {
      if (own.some(({ kvStart, kvEnd }) => kvStart <= kept && kept < kvEnd)) continue;
      must(!this.#sees(record, row, kept), `kept key ${kept} of row ${row} is covered`);
    }
  }

  #asRecord(l: number, row: number): PlanRecord {
    const level = this.batch.layout.levels[l];
    const columnOffset =
      level.columnIndptr === null ? -1 : this.#columnBase(l) + level.columnIndptr[row];
    return { level: l, positionStart: level.positionStarts[row], columnOffset } as PlanRecord;
  }

  #columnBase(l: number): number {
    let base = 0;
    for (const level of this.batch.layout.levels.slice(0, l)) {
      if (level.columnIndptr !== null) base += level.columnIndptr[level.rowCount];
    }
    return base;
  }

  /** Whether causal mask and window let a row see a kept key (packed masks restrict further). */
  #sees(record: PlanRecord, row: number, kept: number): boolean {
    const { causal = false, windowLeft = -1 } = this.options;
    const { blockSize } = this.batch.layout;
    let position = record.positionStart + kept;
    if (record.columnOffset >= 0) {
      const column = record.columnOffset + Math.floor(kept / blockSize);
      const logical = this.plan.sections[this.plan.offsets.columns + column] >> 1;
      position = record.positionStart + logical * blockSize + (kept % blockSize);
    }
    const query = this.batch.positions[Math.floor(row / this.#packed)];
    if (causal && position > query) return false;
    return windowLeft < 0 || position >= query - windowLeft;
  }

  /** Whether the packed mask says nothing of a key: it lies before the tail, or its column is full. */
  #unmasked(record: PlanRecord, row: number, kept: number): boolean {
    const { mask = "none" } = this.options;
    if (mask === "none") return true;
    if (record.columnOffset >= 0) {
      const column = record.columnOffset + Math.floor(kept / this.batch.layout.blockSize);
      return (this.plan.sections[this.plan.offsets.columns + column] & 1) === 1;
    }
    if (mask === "all") return false;
    const { tokenRequests, queryIndptr, kvLengths } = this.batch;
    const request = tokenRequests[Math.floor(row / this.#packed)];
    const tail = kvLengths[request] - (queryIndptr[request + 1] - queryIndptr[request]);
    return record.positionStart + kept < tail;
  }

  #layoutRow(level: Level, kvHead: number, row: number): number {
    const token = Math.floor(row / this.#packed);
    for (let r = 0; r < level.requestRows; r++) {
      if (token < level.queryIndptr[r] || token >= level.queryIndptr[r + 1]) continue;
      return level.perHead ? r * this.options.kvHeads + kvHead : r;
    }
    return -1;
  }
}

function inOrder(a: Part, b: Part): number {
  return a.level - b.level || a.kvStart - b.kvStart;
}

function must(holds: boolean, what: string): void {
  if (!holds) throw new Error(`the plan breaks a rule: ${what}`);
}
