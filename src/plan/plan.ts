import { DisposedError, OptionError } from "../errors.ts";
import { isMade, made } from "../made.ts";
import { counted, showAs } from "../shown.ts";

/** One kernel launch of a plan: records [firstRecord, firstRecord + recordCount). */
export interface PlanLaunch {
  kernelClass: string;
  firstRecord: number;
  recordCount: number;
  /** Items launched: recordCount, or more under a graph (the rest are empty records). */
  grid: number;
  /**
   * Of them, those that take records at once, at most: fewer than grid where it leaves processors
   * to a launch that runs beside it.
   */
  itemsAtOnce: number;
  /** Tiles are few: their class has another kernel, or other blocks, for them. */
  few: boolean;
}

/** Where each section starts in `sections`, in int32 units, multiples of 16. */
export interface PlanOffsets {
  positions: number;
  tokenRequests: number;
  queryIndptr: number;
  kvLengths: number;
  records: number;
  merges: number;
  parts: number;
  columns: number;
}

/** A schedule as data: one block of int32 for the device, launches, and exact sizes. Reused. */
export interface Plan {
  /** Raised by every plan. */
  generation: number;
  /**
   * Those of an attention object may lie in memory that its device reads: they are valid until the
   * next plan, and no longer than both of them.
   */
  sections: Int32Array;
  /** Ints of `sections` that are valid. */
  sectionInts: number;
  /** Ints that the device needs room for: under a graph those of any step. */
  capacityInts: number;
  offsets: PlanOffsets;
  launches: PlanLaunch[];
  recordCount: number;
  mergeCount: number;
  /** Merges that there is room for: mergeCount, or more under a graph. */
  mergeGrid: number;
  /** No launch merges: the kernels of all split rows do, each in the block whose piece is last. */
  mergedByKernels: boolean;
  /** Rows of partial state, and how many the workspace is laid out for. */
  partialRows: number;
  partialCapacity: number;
  /** Exact bytes of partial state: partialCapacity x (valueDim + 1) x 4. */
  workspaceBytes: number;
  /** Bytes that no batch of one level exceeds (batchInvariant excepted). */
  boundBytes: number;
  /** Batch size of the graph bucket, 0 without a graph. */
  bucket: number;
}

const goneBy = new WeakMap<Plan, () => boolean>();

/** Notes when the memory goes that a plan's sections may lie in. */
export function livesUntil(plan: Plan, gone: () => boolean): void {
  goneBy.set(plan, gone);
}

/** Throws unless `value` is what a planner made and still there. OptionError, DisposedError. */
export function requirePlan(value: Plan | undefined): asserts value is Plan {
  if (isMade("plan", value)) {
    if (goneBy.get(value as Plan)?.() === true)
      throw new DisposedError("the attention of the plan");
    return;
  }
  throw new OptionError("plan", value, "a plan", "pass what attention.plan returned.");
}

/** A plan of nothing for these classes. */
export function emptyPlan(classes: readonly { readonly name: string }[]): Plan {
  const plan: Plan = {
    generation: 0,
    sections: new Int32Array(0),
    sectionInts: 0,
    capacityInts: 0,
    offsets: {
      positions: 0,
      tokenRequests: 0,
      queryIndptr: 0,
      kvLengths: 0,
      records: 0,
      merges: 0,
      parts: 0,
      columns: 0,
    },
    launches: classes.map(({ name }) => {
      return {
        kernelClass: name,
        firstRecord: 0,
        recordCount: 0,
        grid: 0,
        itemsAtOnce: 0,
        few: false,
      };
    }),
    recordCount: 0,
    mergeCount: 0,
    mergeGrid: 0,
    mergedByKernels: false,
    partialRows: 0,
    partialCapacity: 0,
    workspaceBytes: 0,
    boundBytes: 0,
    bucket: 0,
  };
  return showAs(made("plan", plan), describePlan);
}

function describePlan({ launches, recordCount, mergeCount, workspaceBytes }: Plan): string {
  const grids = launches.map(({ kernelClass, grid }) => `${kernelClass} ${grid}`).join(", ");
  const counts = `${counted(recordCount, "record")}, ${counted(mergeCount, "merge")}`;
  return `Plan: ${counts}, ${workspaceBytes} bytes of workspace; launches: ${grids}`;
}
