import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Sequence } from "../../src/kv/sequence.ts";
import { Replay } from "../../src/replay/replay.ts";
import { hash, keyRow, keyRows, noiseRows, queryRow } from "../../src/replay/rows.ts";
import type { ReplayOptions, StepRecord } from "../../src/replay/types.ts";
import { dtypeBytes } from "../../src/tensor/dtype.ts";
import { optionsOf, places, someRequests } from "./support.ts";

// The first run on a GPU compiles its kernels.
setDefaultTimeout(60_000);

/** A run to which something is done after its sixth and its tenth step. */
async function damaged(
  place: Partial<ReplayOptions>,
  damage: (session: Replay) => void,
  undo?: (session: Replay) => void,
) {
  const onStep = (_: StepRecord) => {
    steps++;
    if (steps === 6) damage(session);
    if (steps === 10) undo?.(session);
  };
  let steps = 0;
  const requests = someRequests(10).map((request) => ({ ...request, outputTokens: 20 }));
  const session: Replay = await Replay.create(
    requests,
    optionsOf({ ...place, verify: 200, onStep }),
  );
  await using _ = session;
  const { verified } = await session.run();
  return verified;
}

/** A request that runs for many steps to come, with whole pages. */
function longLived({ scheduler }: Replay): Sequence {
  const job = scheduler.running.findLast(
    ({ generated, sequence }) => generated < 5 && sequence!.pageCount > 2,
  );
  return job!.sequence!;
}

describe.each(await places())("verification on $name", ({ options: place }) => {
  test("passes an undamaged run", async () => {
    expect(await damaged(place, () => {})).toMatchObject({ checked: 200, failed: 0 });
  });

  test("fails when a page of values is lost, and says where", async () => {
    const verified = await damaged(place, (session) => {
      const { cache, device } = session;
      const page = longLived(session).pages()[0];
      using values = cache.plane(1, "value").select(0, page);
      device.stream.fill(values.address, 0, values.elements * dtypeBytes(values.dtype));
    });
    expect(verified.failed).toBeGreaterThan(0);
    expect(verified.maxRelError).toBeGreaterThan(0.01);
    expect(verified.misses[0]).toMatch(
      /^request \d+, step \d+, position \d+, layer 1, head \d+: error \S+ of the row's RMS$/,
    );
  });

  test("fails when a page table points at the page of another request", async () => {
    let right = -1;
    let sequence: Sequence;
    const verified = await damaged(
      place,
      (session) => {
        sequence = longLived(session);
        const own = [...sequence.pages()];
        const other = session.scheduler.running
          .flatMap((job) => [...job.sequence!.pages()])
          .find((page) => !own.includes(page))!;
        right = own[2];
        session.cache.pool.groups[0].table.set(sequence.slot, 2, other);
      },
      ({ cache }) => cache.pool.groups[0].table.set(sequence.slot, 2, right),
    );
    expect(verified.failed).toBeGreaterThan(0);
    expect(verified.maxRelError).toBeGreaterThan(0.01);
  });

  test("fails when an output is not a number", async () => {
    const verified = await damaged(place, (session) => {
      const { cache, device } = session;
      const page = longLived(session).pages()[0];
      using keys = cache.plane(0, "key").select(0, page);
      device.stream.fill(keys.address, 0xff, keys.elements * dtypeBytes(keys.dtype));
    });
    expect(verified.maxRelError).toBe(Infinity);
  });
});

describe("rows of the noise banks", () => {
  test("depend on token, position and layer, and use the whole bank", () => {
    const rows = new Set<number>();
    for (let i = 0; i < 20_000; i++) rows.add(keyRow(i, i % 100, i % 3));
    expect(rows.size).toBeGreaterThan(keyRows * 0.99);
    expect(Math.max(...rows)).toBeLessThan(keyRows);
    expect(keyRow(5, 6, 7)).toBe(keyRow(5, 6, 7));
    expect(new Set([hash(1, 2, 3), hash(2, 1, 3), hash(3, 2, 1), hash(1, 3, 2)]).size).toBe(4);
  });

  test("plant needles in half of the queries, each the key of a visible token", () => {
    const tokens = Int32Array.from({ length: 3000 }, (_, i) => hash(i, 0, 0) >>> 1);
    const window = 50;
    let needles = 0;
    for (let position = 0; position < tokens.length; position++) {
      const row = queryRow(tokens, position, 1, window);
      if (row >= keyRows) {
        expect(row).toBeLessThan(keyRows + noiseRows);
        continue;
      }
      needles++;
      const seen = Array.from({ length: Math.min(window, position + 1) }, (_, back) => {
        const target = position - back;
        return keyRow(tokens[target], target, 1);
      });
      expect(seen).toContain(row);
    }
    expect(needles / tokens.length).toBeWithin(0.45, 0.55);
  });
});
