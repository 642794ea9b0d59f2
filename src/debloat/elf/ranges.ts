/** Whole numbers in ascending runs: [first, count], neither touching nor overlapping. */
export type Ranges = [first: number, count: number][];

/** The same numbers in canonical form: sorted, with runs that touch or overlap joined. */
export function joinRanges(ranges: readonly (readonly [number, number])[]): Ranges {
  const joined: Ranges = [];
  for (const [first, count] of [...ranges].sort((a, b) => a[0] - b[0])) {
    if (count === 0) continue;
    const last = joined.at(-1);
    if (last === undefined || last[0] + last[1] < first) joined.push([first, count]);
    else last[1] = Math.max(last[1], first + count - last[0]);
  }
  return joined;
}

/** What `from` holds and `taken` does not; both canonical. */
export function subtractRanges(from: Ranges, taken: Ranges): Ranges {
  const left: Ranges = [];
  let next = 0;
  for (const [first, count] of from) {
    const end = first + count;
    let at = first;
    while (next < taken.length && taken[next][0] + taken[next][1] <= first) next++;
    for (let i = next; i < taken.length && taken[i][0] < end; i++) {
      if (taken[i][0] > at) left.push([at, taken[i][0] - at]);
      at = Math.max(at, taken[i][0] + taken[i][1]);
    }
    if (at < end) left.push([at, end - at]);
  }
  return left;
}

/** How many numbers the runs hold. */
export function countOf(ranges: Ranges): number {
  return ranges.reduce((sum, [, count]) => sum + count, 0);
}
