/**
 * Tries something that must happen while a device works, with more and more work until it does: on
 * a loaded machine short work may be over before this thread has its turn. Only what never happens,
 * however long the work, is a failure.
 * @param attempt queues work of so many microseconds; true when it happened while that ran
 * @returns whether an attempt came true
 */
export async function whileBusy(
  attempt: (microseconds: number) => boolean | Promise<boolean>,
): Promise<boolean> {
  for (let microseconds = 20_000; microseconds <= 20_000_000; microseconds *= 4) {
    if (await attempt(microseconds)) return true;
  }
  return false;
}
