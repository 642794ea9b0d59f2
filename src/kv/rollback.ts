import type { PageGroup } from "./page-group.ts";
import type { SequenceState } from "./sequence-state.ts";
import type { StepArrays } from "./step-batch.ts";

/**
 * Gives back what the last step took: its sequences, those freed since excepted, have the lengths
 * and the pages of before. Its pages return in reverse, so that the next step takes them again. A
 * page that the step copied to write it is shared again if nobody wrote or freed it since; what
 * windows had passed stays free, as no later query sees it. Its batches are stale.
 */
export function rollbackStep(state: SequenceState, step: StepArrays): void {
  const { lengths, lastTokens, steps } = state;
  const { slots, lengthsBefore, lastTokensBefore } = step;
  for (let g = 0; g < state.groups.length; g++) {
    const group = state.groups[g];
    if (group.allocator.freedCount !== group.freedBefore) group.copyCount = 0;
  }
  for (let r = step.requestCount - 1; r >= 0; r--) {
    const slot = slots[r];
    if (steps[slot] !== step.generation) continue;
    const before = lengthsBefore[r];
    const length = Math.min(before, lengths[slot]);
    state.cut(slot, length);
    const last = Math.max(0, lastTokensBefore[r] - before + length);
    // Where windows have moved on, the step before can no longer be compacted.
    lastTokens[slot] = state.holdsWindow(slot, length - last) ? last : 0;
    steps[slot] = 0;
    state.places.rollback(slot);
    for (let g = 0; g < state.groups.length; g++) shareAgain(state, state.groups[g], r, slot);
  }
  state.writes.end();
  step.generation++;
}

/** Puts the page that the step copied for a request, if it did, back in its place. */
function shareAgain(state: SequenceState, group: PageGroup, request: number, slot: number): void {
  const { copies, table, allocator } = group;
  while (group.copyCount > 0 && copies[3 * group.copyCount - 3] >= request) {
    const at = 3 * --group.copyCount;
    const column = copies[at + 1];
    const page = copies[at + 2];
    if (copies[at] !== request || page < 0 || column >= state.pageCounts[slot]) continue;
    allocator.release(table.get(slot, column));
    allocator.retain(page);
    table.set(slot, column, page);
    state.versions[slot]++;
  }
}
