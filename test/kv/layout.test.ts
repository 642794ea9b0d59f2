import { describe, expect, test } from "bun:test";
import { OptionError } from "../../src/errors.ts";
import { createBatch, type BatchOptions } from "../../src/kv/batch.ts";
import { createLevel, pagesLayout, raggedLayout, type Layout } from "../../src/kv/layout.ts";
import { blockMaskLayout, tokenMaskLayout } from "../../src/kv/sparse-layout.ts";
import { userPages } from "../../src/kv/user-pages.ts";
import { forSeeds, type Random } from "../support/random.ts";

function randomIndptr(random: Random, rows: number, most: number): number[] {
  const result = [0];
  for (let i = 0; i < rows; i++) result.push(result[i] + random.integer(0, most));
  return result;
}

/**
 * What a contiguous sparse layout keeps, as "query token, head, K/V token" of the whole tensors.
 */
function keptTokens(layout: Layout, heads: number): Set<string> {
  const kept = new Set<string>();
  const [level] = layout.levels;
  expect(level.rowCount).toBe(level.requestRows * heads);
  for (let row = 0; row < level.rowCount; row++) {
    const requestRow = Math.floor(row / heads);
    let left = level.kvLengths[row];
    for (let i = level.columnIndptr![row]; i < level.columnIndptr![row + 1]; i++) {
      const column = level.columns![i] >> 1;
      const width = Math.min(layout.blockSize, left);
      left -= width;
      for (let key = 0; key < width; key++)
        for (let q = level.queryIndptr[requestRow]; q < level.queryIndptr[requestRow + 1]; q++)
          kept.add(`${q} ${row % heads} ${level.slots[row] + column * layout.blockSize + key}`);
    }
    expect(left).toBe(0);
  }
  return kept;
}

describe("raggedLayout", () => {
  test("gives each request its tokens", () => {
    const layout = raggedLayout([0, 2, 2, 5], [0, 7, 9, 9]);
    const [level] = layout.levels;
    expect([layout.contiguous, level.rowCount, level.requestRows]).toEqual([true, 3, 3]);
    expect([...level.slots]).toEqual([0, 7, 9]);
    expect([...level.kvLengths]).toEqual([7, 2, 0]);
    expect([...level.requests]).toEqual([0, 1, 2]);
    expect([...level.queryIndptr]).toEqual([0, 2, 2, 5]);
  });

  test.each([
    ["queryIndptr[2]", [0, 2, 1], [0, 1, 1]],
    ["queryIndptr[0]", [1, 2], [0, 1]],
    ["queryIndptr.length", [], [0]],
    ["kvIndptr.length", [0, 1], [0, 1, 2]],
    ["kvIndptr[1]", [0, 1], [0, NaN]],
    ["kvIndptr[1]", [0, 1], [0, -1]],
    ["kvIndptr[1]", [0, 1], [0, 2 ** 31]],
    ["kvIndptr", [0, 1], undefined as unknown as number[]],
    ["queryIndptr", "01" as unknown as number[], [0]],
  ])("refuses a bad %s", (option, queryIndptr, kvIndptr) => {
    expect(() => raggedLayout(queryIndptr, kvIndptr)).toThrow(OptionError);
    expect(() => raggedLayout(queryIndptr, kvIndptr)).toThrow(`${option} must be`);
  });
});

describe("blockMaskLayout", () => {
  test("keeps the tokens that a dense mask says", () => {
    forSeeds(200, (random) => {
      const requests = random.integer(0, 4);
      const queryIndptr = randomIndptr(random, requests, 9);
      const kvIndptr = randomIndptr(random, requests, 12);
      const [blockRows, blockColumns] = [random.integer(1, 5), random.integer(1, 5)];
      const kvHeads = random.pick([undefined, 1, 3]);
      const heads = kvHeads ?? 1;
      const expected = new Set<string>();
      const paired = new Set<string>();
      const [indptr, indices, full, mask]: number[][] = [[0], [], [], []];
      for (let r = 0; r < requests; r++) {
        const keyCount = kvIndptr[r + 1] - kvIndptr[r];
        for (let q = queryIndptr[r]; q < queryIndptr[r + 1]; q += blockRows) {
          for (let head = 0; head < heads; head++) {
            for (let column = 0; column * blockColumns < keyCount; column++) {
              if (random.chance(0.5)) continue;
              indices.push(column);
              full.push(random.integer(0, 1));
              for (let t = q; t < q + blockRows; t++)
                for (let k = 0; k < blockColumns; k++) {
                  mask.push(random.integer(0, 1));
                  if (t >= queryIndptr[r + 1] || column * blockColumns + k >= keyCount) continue;
                  const pair = `${t} ${head} ${kvIndptr[r] + column * blockColumns + k}`;
                  expected.add(pair);
                  if (mask.at(-1) === 1 || full.at(-1) === 1) paired.add(pair);
                }
            }
            indptr.push(indices.length);
          }
        }
      }
      const options = { queryIndptr, kvIndptr, blockRows, blockColumns, indptr, indices, kvHeads };
      const layout = blockMaskLayout({ ...options, full });
      expect(keptTokens(layout, heads)).toEqual(expected);
      expect([...layout.levels[0].columns!].map((column) => column & 1)).toEqual(full);
      expect(blockMaskLayout(options).levels[0].columns!.every((column) => column & 1)).toBe(true);
      expect(keptTokens(blockMaskLayout({ ...options, full, mask }), heads)).toEqual(paired);
    });
  });

  const good = {
    queryIndptr: [0, 4],
    kvIndptr: [0, 10],
    blockRows: 2,
    blockColumns: 4,
    indptr: [0, 2, 3],
    indices: [0, 2, 1],
  };
  test.each([
    ["indices[1]", { indices: [2, 0, 1] }],
    ["indices[1]", { indices: [1, 1, 1] }],
    ["indices[1]", { indices: [0, 3, 1] }],
    ["indices[0]", { indices: [-1, 0, 1] }],
    ["indices[2]", { indices: [0, 1, NaN] }],
    ["indices.length", { indices: [0, 1] }],
    ["indptr.length", { indptr: [0, 3] }],
    ["indptr[2]", { indptr: [0, 2, 1] }],
    ["blockRows", { blockRows: 0 }],
    ["blockColumns", { blockColumns: NaN }],
    ["kvHeads", { kvHeads: 0 }],
    ["full.length", { full: [1] }],
  ])("refuses a bad %s", (option, change) => {
    blockMaskLayout(good);
    expect(() => blockMaskLayout({ ...good, ...change })).toThrow(OptionError);
    expect(() => blockMaskLayout({ ...good, ...change })).toThrow(`${option} must be`);
  });

  test.each([
    ["indices[1]", { indices: [2, 0, 1] }],
    ["indices[1]", { indices: [0, 3, 1] }],
    ["mask.length", { mask: [1] }],
  ])("refuses a bad %s beside masks in blocks", (option, change) => {
    const mask = new Array<number>(24).fill(1);
    expect(() => blockMaskLayout({ ...good, mask, ...change })).toThrow(`${option} must be`);
  });
});

describe("tokenMaskLayout", () => {
  test("keeps the tokens of the mask and shares equal rows", () => {
    forSeeds(200, (random) => {
      const requests = random.integer(0, 4);
      const queryIndptr = randomIndptr(random, requests, 6);
      const kvIndptr = randomIndptr(random, requests, 8);
      const kvHeads = random.pick([undefined, 2]);
      const mask: number[] = [];
      const expected = new Set<string>();
      for (let r = 0; r < requests; r++)
        for (let q = queryIndptr[r]; q < queryIndptr[r + 1]; q++)
          for (let head = 0; head < (kvHeads ?? 1); head++)
            for (let k = kvIndptr[r]; k < kvIndptr[r + 1]; k++) {
              mask.push(random.chance(0.7) ? 1 : 0);
              if (mask[mask.length - 1]) expected.add(`${q} ${head} ${k}`);
            }
      const layout = tokenMaskLayout({ queryIndptr, kvIndptr, mask, kvHeads });
      expect(layout.blockSize).toBe(1);
      expect(keptTokens(layout, kvHeads ?? 1)).toEqual(expected);
    });
    const [level] = tokenMaskLayout({
      queryIndptr: [0, 3, 4],
      kvIndptr: [0, 2, 4],
      mask: [1, 0, 1, 0, 1, 1, 1, 1],
    }).levels;
    expect([...level.queryIndptr]).toEqual([0, 2, 3, 4]);
    expect([...level.requests]).toEqual([0, 0, 1]);
  });

  test("refuses a mask of another size", () => {
    expect(() => tokenMaskLayout({ queryIndptr: [0, 2], kvIndptr: [0, 2], mask: [1] })).toThrow(
      "mask.length must be 4",
    );
  });
});

describe("userPages", () => {
  const good = {
    queryIndptr: [0, 2, 2, 3],
    indptr: [0, 2, 2, 5],
    indices: [4, 1, 4, 0, 7],
    lastPageLength: [2, 0, 3],
    pageSize: 3,
    pageCount: 8,
  };

  test("gives table, lengths, layout and where new tokens go", () => {
    const { layout, table, stride, kvLengths, slotMapping } = userPages(good);
    expect(stride).toBe(3);
    expect([...table]).toEqual([4, 1, -1, -1, -1, -1, 4, 0, 7]);
    expect([...kvLengths]).toEqual([5, 0, 9]);
    expect([...slotMapping]).toEqual([3, 4, 23]);
    expect([layout.contiguous, layout.blockSize]).toEqual([false, 3]);
    expect([...layout.levels[0].slots]).toEqual([0, 1, 2]);
    const batch = createBatch({
      queryLengths: [2, 0, 1],
      kvLengths,
      layout,
      slotMappings: [slotMapping],
    });
    expect([...batch.positions]).toEqual([3, 4, 8]);
    expect([...batch.slotMappings[0]]).toEqual([3, 4, 23]);
  });

  test("without writes, queries may outnumber K/V and last pages be shared", () => {
    const change = { queryIndptr: [0, 9], indptr: [0, 1], indices: [4], lastPageLength: [1] };
    expect([...userPages({ ...good, ...change, writes: false }).kvLengths]).toEqual([1]);
    const shared = { ...good, indices: [4, 7, 4, 0, 7] };
    expect(userPages({ ...shared, writes: false }).slotMapping.every((slot) => slot === -1)).toBe(
      true,
    );
    expect(() => userPages(shared)).toThrow(OptionError);
  });

  test("takes lengths instead of those of last pages, 64-bit lists, and lists to spare", () => {
    const whole = userPages(good);
    const same = { ...good, lastPageLength: null, kvLengths: [5, 0, 9] };
    const longer = { ...same, indices: BigInt64Array.of(4n, 1n, 4n, 0n, 7n, 99n) };
    for (const options of [same, longer]) {
      const made = userPages(options);
      expect([...made.table]).toEqual([...whole.table]);
      expect([...made.slotMapping]).toEqual([...whole.slotMapping]);
    }
    const fewer = { ...same, indices: [4, 1, 6, 0, 7], kvLengths: [2, 0, 1] };
    expect([...userPages(fewer).slotMapping]).toEqual([12, 13, 18]);
  });

  test("without writes, a page may stand twice in a request", () => {
    const twice = { ...good, indices: [4, 4, 4, 0, 4] };
    expect([...userPages({ ...twice, writes: false }).kvLengths]).toEqual([5, 0, 9]);
  });

  test.each([
    ["kvLengths[0]", { lastPageLength: undefined, kvLengths: [7, 0, 9] }],
    ["kvLengths[1]", { lastPageLength: undefined, kvLengths: [6, 1, 9] }],
    ["kvLengths.length", { lastPageLength: undefined, kvLengths: [6, 0] }],
    ["lastPageLength", { lastPageLength: undefined }],
    ["lastPageLength", { kvLengths: [5, 0, 9] }],
    ["indices[1]", { indices: [4, 8, 4, 0, 7] }],
    ["indices[1]", { indices: [4, -1, 4, 0, 7] }],
    ["indices[1]", { indices: [4, NaN, 4, 0, 7] }],
    ["indices[1]", { indices: [4, 4, 5, 0, 7] }],
    ["indices[1]", { indices: [4, 7, 4, 0, 7] }],
    ["indices[4]", { indices: [4, 1, 4, 0, 1], queryIndptr: [0, 0, 0, 1] }],
    ["indices.length", { indices: [4] }],
    ["indptr[2]", { indptr: [0, 2, 1, 5] }],
    ["indptr.length", { indptr: [0, 5] }],
    ["lastPageLength[0]", { lastPageLength: [0, 0, 3] }],
    ["lastPageLength[1]", { lastPageLength: [2, 1, 3] }],
    ["lastPageLength[2]", { lastPageLength: [2, 0, 4] }],
    ["lastPageLength.length", { lastPageLength: [2] }],
    ["pageSize", { pageSize: 0 }],
    ["pageCount", { pageCount: 2 ** 31 }],
    ["queryIndptr[1] - queryIndptr[0]", { queryIndptr: [0, 6, 6, 7] }],
  ])("refuses a bad %s", (option, change) => {
    userPages(good);
    expect(() => userPages({ ...good, ...change })).toThrow(OptionError);
    expect(() => userPages({ ...good, ...change })).toThrow(`${option} must be`);
  });
});

describe("createBatch", () => {
  const layout = raggedLayout([0, 2, 3], [0, 5, 6]);
  const good: BatchOptions = { queryLengths: [2, 1], layout };

  test("takes K/V lengths from a dense layout, and positions from them", () => {
    const batch = createBatch({ ...good, padTo: 5, slotMappings: [[8, -1, 3]] });
    expect([...batch.queryIndptr]).toEqual([0, 2, 3]);
    expect([...batch.kvLengths]).toEqual([5, 1]);
    expect([...batch.positions]).toEqual([3, 4, 0, 0, 0]);
    expect([...batch.tokenRequests]).toEqual([0, 0, 1, -1, -1]);
    expect([...batch.slotMappings[0]]).toEqual([8, -1, 3, -1, -1]);
    expect([batch.requestCount, batch.tokenCount, batch.paddedTokens]).toEqual([2, 3, 5]);
    expect([batch.customPositions, batch.owner, batch.ok]).toEqual([false, null, true]);
  });

  test("adds up the levels of a cascade", () => {
    const [shared, rest] = [createLevel(1), createLevel(2)];
    Object.assign(shared, { rowCount: 1, requestRows: 1 });
    shared.queryIndptr.set([0, 3]);
    shared.kvLengths[0] = 8;
    Object.assign(rest, { rowCount: 2, requestRows: 2 });
    rest.queryIndptr.set([0, 2, 3]);
    rest.requests.set([0, 1]);
    rest.positionStarts.set([8, 8]);
    rest.kvLengths.set([3, 0]);
    const levels = [shared, rest];
    const batch = createBatch({
      queryLengths: [2, 1],
      layout: { blockSize: 4, contiguous: false, levels },
    });
    expect([...batch.kvLengths]).toEqual([11, 8]);
    expect([...batch.positions]).toEqual([9, 10, 7]);
  });

  test("marks positions only when they differ from the usual", () => {
    expect(createBatch({ ...good, positions: [3, 4, 0] }).customPositions).toBe(false);
    expect(createBatch({ ...good, positions: [3, 3, 0] }).customPositions).toBe(true);
  });

  const sparse = tokenMaskLayout({ queryIndptr: [0, 1], kvIndptr: [0, 2], mask: [1, 0] });
  const level = createLevel(1);
  const paged = pagesLayout(4, Int32Array.of(0, 3), Int32Array.of(0), Int32Array.of(9));
  paged.levels[0].positionStarts[0] = 2;
  test.each([
    ["queryLengths[0]", { queryLengths: [NaN, 1] }],
    ["queryLengths[1]", { queryLengths: [2, -1] }],
    ["queryLengths", { queryLengths: [2 ** 31 - 1, 1] }],
    ["kvLengths.length", { kvLengths: [5] }],
    ["kvLengths[1]", { kvLengths: [5, -1] }],
    ["positions.length", { positions: [1] }],
    ["positions[2]", { positions: [1, 2, -3] }],
    ["positions[0]", { positions: [NaN, 2, 3] }],
    ["padTo", { padTo: 2 }],
    ["slotMappings[0].length", { slotMappings: [[1]] }],
    ["slotMappings[0][1]", { slotMappings: [[1, -2, 3]] }],
    ["kvLengths", { queryLengths: [1], layout: sparse }],
    ["layout.levels[0].queryIndptr[2]", { queryLengths: [2, 0] }],
    ["layout.levels[0].requests[1]", { queryLengths: [3] }],
    ["layout.levels", { layout: { ...layout, levels: [] } }],
    ["layout.blockSize", { layout: { ...layout, blockSize: 0 } }],
    ["layout.levels[0].rowCount", { layout: { ...layout, levels: [{ ...level, rowCount: 2 }] } }],
    [
      "layout.levels[0].requestRows",
      { layout: { ...layout, levels: [{ ...level, rowCount: 1 }] } },
    ],
    ["layout.levels[0].positionStarts[0]", { queryLengths: [3], layout: paged }],
    [
      "layout.levels[0].columns[1]",
      {
        layout: {
          ...layout,
          levels: [
            {
              ...level,
              rowCount: 1,
              requestRows: 1,
              columns: Int32Array.of(4, 2),
              columnIndptr: Int32Array.of(0, 2),
            },
          ],
        },
      },
    ],
    ...(
      [
        ["columns[0]", [-2, 2], 2],
        ["kvLengths[0]", [0, 2], 3],
        ["kvLengths[0]", [0, 2], 1],
      ] as const
    ).map(([option, columns, kept]): [string, Partial<BatchOptions>] => [
      `layout.levels[0].${option}`,
      {
        layout: {
          blockSize: 1,
          contiguous: true,
          levels: [
            {
              ...level,
              rowCount: 1,
              requestRows: 1,
              kvLengths: Int32Array.of(kept),
              columns: Int32Array.from(columns),
              columnIndptr: Int32Array.of(0, 2),
            },
          ],
        },
      },
    ]),
    [
      "layout.levels[0].columnIndptr[1]",
      {
        layout: {
          ...layout,
          levels: [
            {
              ...level,
              rowCount: 1,
              requestRows: 1,
              columns: Int32Array.of(4),
              columnIndptr: Int32Array.of(0, 2),
            },
          ],
        },
      },
    ],
  ])("refuses a bad %s", (option, change) => {
    expect(() => createBatch({ ...good, ...change })).toThrow(OptionError);
    expect(() => createBatch({ ...good, ...change })).toThrow(`${option} must be`);
  });
});
