import { requireInteger, requireOptions } from "../require.ts";
import { type CostModel, defaultCosts, pieceCost, requireCosts } from "./cost.ts";
import { processorsMost } from "./options.ts";
import { type Plan, requirePlan } from "./plan.ts";
import { mergesOf, type PlanMerge, type PlanRecord, recordsOf } from "./record.ts";

/** What a plan is run on. */
export interface TimelineOptions {
  /** Lanes: threads of a CPU, resident blocks of a GPU. */
  readonly processors: number;
  readonly costs?: CostModel;
}

/** What one processor does for a while, in cost-model units of time. */
export interface Slice {
  lane: number;
  start: number;
  end: number;
  kind: "whole" | "partial" | "merge";
  kernelClass: string;
  /** First request of the layout row; -1 for merges. */
  request: number;
  level: number;
  /** The first KV head, and how many neighbouring records the slice joins. */
  kvHead: number;
  records: number;
  rowStart: number;
  rowCount: number;
  kvStart: number;
  kvEnd: number;
  /** Keys count along a list of columns: of a sparse row, or of a tile that a mask narrowed. */
  listed: boolean;
  /** Reads a prefix once for several requests: the first level of several. */
  shared: boolean;
}

/**
 * Who does what when: slices in the order in which they are taken, and the time of the last end.
 */
export interface Timeline {
  slices: Slice[];
  end: number;
  /** Part of processors x end that is work. */
  busy: number;
}

/** The options after a check. Errors: OptionError. */
export function checkTimeline<Options extends TimelineOptions>(plan: Plan, options: Options) {
  requirePlan(plan);
  requireOptions("options", options, ["processors", "costs", "title", "width"]);
  requireInteger("processors", options.processors, 1, processorsMost);
  if (options.costs !== undefined) requireCosts(options.costs);
  return options;
}

/**
 * Runs a plan on the cost model: launch after launch, each record is taken in order by the
 * processor that is free first (ties: the lowest), as threads with a shared counter do.
 * Errors: OptionError.
 */
export function timelineOf(plan: Plan, options: TimelineOptions): Timeline {
  const { processors, costs = defaultCosts } = checkTimeline(plan, options);
  const free = new Float64Array(processors);
  const slices: Slice[] = [];
  let work = 0;
  let kernelClass = "";
  const take = (cost: number, slice: Omit<Slice, "lane" | "start" | "end">) => {
    if (slice.kernelClass !== kernelClass) free.fill(Math.max(...free));
    kernelClass = slice.kernelClass;
    const lane = free.indexOf(Math.min(...free));
    const start = free[lane];
    free[lane] += cost;
    work += cost;
    slices.push({ ...slice, lane, start, end: free[lane] });
  };
  const records = recordsOf(plan);
  const cascade = records.some(({ level }) => level > 0);
  for (const record of records) {
    const shared = cascade && record.level === 0 && record.kvEnd > record.kvStart;
    const cost = pieceCost(costs, record.rowCount, record.kvEnd - record.kvStart);
    take(cost, { ...sliceOf(record), shared });
  }
  for (const merge of mergesOf(plan)) {
    take(costs.mergeKeys * merge.rowCount * merge.partCount, mergeSlice(merge));
  }
  const end = Math.max(...free);
  return { slices, end, busy: end > 0 ? work / (end * processors) : 1 };
}

function sliceOf(record: PlanRecord): Omit<Slice, "lane" | "start" | "end" | "shared"> {
  const { kernelClass, request, level, kvHead, rowStart, rowCount, kvStart, kvEnd } = record;
  const kind = record.partialRow < 0 ? "whole" : "partial";
  const listed = record.columnOffset >= 0;
  const rows = { kvHead, records: 1, rowStart, rowCount, kvStart, kvEnd, listed };
  return { kind, kernelClass, request, level, ...rows };
}

function mergeSlice(merge: PlanMerge): Omit<Slice, "lane" | "start" | "end"> {
  const { queryHeadStart, queryHeadCount, rowStart, rowCount, partCount } = merge;
  return {
    kind: "merge",
    kernelClass: "merge",
    request: -1,
    level: 0,
    kvHead: queryHeadStart / queryHeadCount,
    records: 1,
    rowStart,
    rowCount,
    kvStart: 0,
    kvEnd: partCount,
    listed: false,
    shared: false,
  };
}

/** A plan's timeline in the Chrome trace format, for Perfetto; a cost unit is shown as 1 us. */
export function planTrace(plan: Plan, options: TimelineOptions): string {
  checkTimeline(plan, options);
  const events: object[] = [];
  for (let lane = 0; lane < options.processors; lane++) {
    const args = { name: `processor ${lane}` };
    events.push({ name: "thread_name", ph: "M", pid: 0, tid: lane, args });
  }
  for (const { lane, start, end, ...args } of timelineOf(plan, options).slices) {
    const when = { ph: "X", pid: 0, tid: lane, ts: start, dur: end - start };
    events.push({ name: nameOf(args), cat: args.kind, ...when, args });
  }
  return JSON.stringify({ displayTimeUnit: "ms", traceEvents: events });
}

function nameOf({ kind, request, kvHead }: Pick<Slice, "kind" | "request" | "kvHead">): string {
  return kind === "merge" ? `merge KV head ${kvHead}` : `request ${request} KV head ${kvHead}`;
}
