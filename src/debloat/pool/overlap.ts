/** How many items are worked on at once: one is read or written while threads look into another. */
const atOnce = 2;

/**
 * Works on items by their order, a few at once; the results in the same order.
 * @throws what the first that failed threw, when all that were begun have ended
 */
export async function overlapped<Item, Result>(
  items: readonly Item[],
  work: (item: Item) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = [];
  const failures: unknown[] = [];
  const left = items.entries();
  const workOn = async () => {
    for (const [at, item] of left) {
      if (failures.length > 0) return;
      try {
        results[at] = await work(item);
      } catch (cause) {
        failures.push(cause);
      }
    }
  };
  await Promise.all(Array.from({ length: atOnce }, workOn));
  if (failures.length > 0) throw failures[0];
  return results;
}
