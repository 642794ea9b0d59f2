/** What index tensors of a run hold: looked at before a kernel that would follow it anywhere. */
import type { Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import type { Batch } from "../kv/batch.ts";
import type { Plan } from "../plan/plan.ts";
import { AttentionRecordField as Field, attentionRecordInts } from "../plan/record.gen.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { pageTableOf, strideOf } from "./bind-keys.ts";
import { maskElements } from "./bind-mask.ts";
import type { ResolvedOptions } from "./options.ts";
import type { PlainTensors } from "./tensors.ts";

/** Looks at index tensors once for each plan, not in each layer. */
export class Contents {
  readonly #options: ResolvedOptions;
  #plan = -1;
  #maskIndptr: Tensor | undefined;
  #pageTable: Tensor | undefined;

  constructor(options: ResolvedOptions) {
    this.#options = options;
  }

  /**
   * Waits for the stream, then checks every entry of mask offsets and page tables that kernels of
   * the plan would follow. Errors: OptionError naming the entry.
   */
  check(plan: Plan, batch: Batch, tensors: PlainTensors, stream: Stream): void {
    const { maskBits, maskIndptr } = tensors;
    const pageTable = tensors.k && pageTableOf(batch, tensors);
    const isSame = maskIndptr === this.#maskIndptr && pageTable === this.#pageTable;
    if (isSame && plan.generation === this.#plan) return;
    this.#plan = -1;
    if (maskBits !== undefined && maskIndptr !== undefined)
      checkMasks(batch, this.#options, maskBits, valuesOf(maskIndptr, stream));
    if (pageTable !== undefined) checkPages(plan, batch, tensors, pageTable, stream);
    this.#plan = plan.generation;
    this.#maskIndptr = maskIndptr;
    this.#pageTable = pageTable;
  }
}

function valuesOf(tensor: Tensor, stream: Stream): Int32Array {
  stream.wait();
  return new Int32Array(tensor.toBytes().buffer);
}

function checkMasks(
  batch: Batch,
  options: ResolvedOptions,
  { dtype, elements, label }: Tensor,
  starts: Int32Array,
): void {
  for (let r = 0; r < batch.requestCount; r++) {
    const count = maskElements(options, batch, r, dtype !== "bool");
    if (count === 0 || (starts[r] >= 0 && starts[r] <= elements - count)) continue;
    const allowed = `0 to ${elements - count}: request ${r} takes ${count} elements of ${label}`;
    const fix = "add up what the masks of the requests before it take.";
    throw new OptionError(`maskIndptr[${r}]`, starts[r], allowed, fix);
  }
}

/** Page ids of the tokens in the plan's records; past lengths known only there may be anything. */
function checkPages(
  plan: Plan,
  batch: Batch,
  { k, v, kvLengths }: PlainTensors,
  pageTable: Tensor,
  stream: Stream,
): void {
  const table = valuesOf(pageTable, stream);
  const lengths = kvLengths && valuesOf(kvLengths, stream);
  const stride = strideOf(pageTable);
  const pages = Math.min(k!.shape[0], v!.shape[0]);
  const { blockSize } = batch.layout;
  const { sections, offsets } = plan;
  for (const { firstRecord, recordCount } of plan.launches) {
    for (let i = firstRecord; i < firstRecord + recordCount; i++) {
      const at = offsets.records + i * attentionRecordInts;
      const slot = sections[at + Field.slot];
      const start = sections[at + Field.positionStart];
      const kept = sections[at + Field.columnOffset];
      const limit = lengths === undefined ? Infinity : longest(batch, lengths, sections, at);
      const end = Math.ceil(sections[at + Field.kvEnd] / blockSize);
      let column = Math.floor(sections[at + Field.kvStart] / blockSize);
      for (; column < end; column++) {
        const logical = kept < 0 ? column : sections[offsets.columns + kept + column] >> 1;
        if (start + logical * blockSize >= limit) break;
        const place = start / blockSize + logical;
        const page = table[slot * stride + place];
        if (page >= 0 && page < pages) continue;
        const fix = "give every column that the layout reads a page of k and v.";
        const allowed = `a page from 0 to ${pages - 1}`;
        const at = pageTable.shape.length === 1 ? slot + place : `${slot}, ${place}`;
        throw new OptionError(`pageTable[${at}]`, page, allowed, fix);
      }
    }
  }
}

/** Most tokens of K/V of the requests that a record serves. */
function longest(batch: Batch, lengths: Int32Array, sections: Int32Array, at: number): number {
  const heads = sections[at + Field.queryHeadCount];
  const first = sections[at + Field.rowStart];
  const end = first + sections[at + Field.rowCount];
  let most = 0;
  for (let token = Math.floor(first / heads); token * heads < end; token++)
    most = Math.max(most, lengths[batch.tokenRequests[token]]);
  return most;
}
