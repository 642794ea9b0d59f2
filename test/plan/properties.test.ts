import { expect, test } from "bun:test";
import { checkPlan } from "../../src/plan/check.ts";
import { Planner } from "../../src/plan/planner.ts";
import { recordsOf } from "../../src/plan/record.ts";
import { forSeeds } from "../support/random.ts";
import { randomBatch, randomOptions } from "./support.ts";

test("20,000 random plans cover every visible key exactly once", () => {
  forSeeds(20_000, (random) => {
    const options = randomOptions(random);
    const batch = randomBatch(random, options);
    checkPlan(new Planner(options).plan(batch), batch, options);
  });
}, 300_000);

test("a planner that is used again plans as a new one does", () => {
  forSeeds(300, (random) => {
    const options = randomOptions(random);
    const reused = new Planner(options);
    for (let step = 0; step < 4; step++) {
      const batch = randomBatch(random, options);
      const [again, fresh] = [reused.plan(batch), new Planner(options).plan(batch)];
      expect(again.sections.slice(0, again.sectionInts)).toEqual(
        fresh.sections.slice(0, fresh.sectionInts),
      );
      expect(again.launches).toEqual(fresh.launches);
      expect(again.workspaceBytes).toBe(fresh.workspaceBytes);
    }
  });
});

test("batch-invariant pieces of a request do not depend on its neighbours", () => {
  forSeeds(2000, (random) => {
    const options = { ...randomOptions(random), batchInvariant: true };
    const planner = new Planner(options);
    const batch = randomBatch(random, options, true);
    checkPlan(planner.plan(batch), batch, options);
    const plan = planner.plan(batch);
    // Sums of more warps are others.
    expect(plan.launches.some(({ few }) => few)).toBe(false);
    const whole = recordsOf(plan);
    for (let r = 0; r < batch.requestCount; r++) {
      const { queryIndptr, kvLengths, layout } = batch;
      const count = queryIndptr[r + 1] - queryIndptr[r];
      if (count === 0) continue;
      const heads = whole[0].queryHeadCount;
      const alone = aloneBatch(batch, r);
      const own = recordsOf(new Planner(options).plan(alone)).map(pieceOf(0));
      const among = whole
        .filter(({ rowStart }) => {
          const token = Math.floor(rowStart / heads);
          return token >= queryIndptr[r] && token < queryIndptr[r + 1];
        })
        .map(pieceOf(queryIndptr[r] * heads));
      expect(among.sort()).toEqual(own.sort());
      expect(layout.levels).toHaveLength(1);
      expect(kvLengths[r]).toBe(alone.kvLengths[0]);
    }
  });
});

function aloneBatch(batch: ReturnType<typeof randomBatch>, r: number) {
  const { queryIndptr, kvLengths, layout, positions } = batch;
  const count = queryIndptr[r + 1] - queryIndptr[r];
  const [level] = layout.levels;
  return {
    ...batch,
    requestCount: 1,
    tokenCount: count,
    paddedTokens: count,
    queryIndptr: Int32Array.of(0, count),
    kvLengths: Int32Array.of(kvLengths[r]),
    positions: positions.slice(queryIndptr[r], queryIndptr[r + 1]),
    tokenRequests: new Int32Array(count),
    layout: {
      ...layout,
      levels: [
        {
          ...level,
          rowCount: 1,
          requestRows: 1,
          queryIndptr: Int32Array.of(0, count),
          requests: Int32Array.of(0),
          slots: Int32Array.of(level.slots[r]),
          kvLengths: Int32Array.of(level.kvLengths[r]),
          positionStarts: Int32Array.of(level.positionStarts[r]),
        },
      ],
    },
  };
}

function pieceOf(firstRow: number) {
  return (record: ReturnType<typeof recordsOf>[number]) =>
    [
      record.kvHead,
      record.rowStart - firstRow,
      record.rowCount,
      record.kernelClass,
      record.kvStart,
      record.kvEnd,
    ].join();
}
