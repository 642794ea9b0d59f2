import type { Device } from "../device/device.ts";
import type { Stream } from "../device/stream.ts";
import { AttentionRecord } from "../ffi/params.gen.ts";
import type { Plan } from "../plan/plan.ts";
import type { BoundParams } from "./bound.ts";
import type { AttentionKernels } from "./families/resolve.ts";

/**
 * Queues a plan's launches, whose sections start at an address, then the merge of split rows. Those
 * of large tiles go first: of those that run beside each other, small ones fit in between.
 */
export function launchPlan(
  device: Device,
  stream: Stream,
  { kernels, few, merge, offer }: AttentionKernels,
  bound: BoundParams,
  plan: Plan,
  sections: number,
): void {
  const { params } = bound;
  let beside = 0;
  for (let i = plan.launches.length - 1; i >= 0; i--) {
    const launch = plan.launches[i];
    if (launch.grid === 0) continue;
    const alone = offer.classes[i].rowsPerKey === undefined;
    params.beside = alone ? 0 : beside;
    beside = alone ? 0 : beside + 1;
    const first = plan.offsets.records * 4 + launch.firstRecord * AttentionRecord.byteLength;
    params.records = sections + first;
    params.recordCount = launch.grid;
    const kernel = launch.few ? few[i]! : kernels[i];
    device.launch(stream, kernel, bound.of(i), launch.itemsAtOnce);
  }
  if (plan.mergeGrid === 0 || plan.mergedByKernels) return;
  const shares = offer.merge.shares(plan.mergeGrid, device.processors);
  device.launch(stream, merge, params, plan.mergeGrid * shares);
}
