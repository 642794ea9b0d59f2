import { describe, expect, test } from "bun:test";
import { OptionError } from "../../src/errors.ts";
import { PageTable } from "../../src/kv/page-table.ts";
import { RowSpace } from "../../src/kv/row-space.ts";
import { forSeeds } from "../support/random.ts";
import { DeviceTable } from "./model.ts";

/** A table whose slots' rows have room for so many columns each. */
function tableOf(slots: number, columns: number): PageTable {
  const rows = new RowSpace(slots);
  for (let slot = 0; slot < slots; slot++) rows.grow(slot, columns);
  return new PageTable(rows);
}

describe("PageTable", () => {
  test("a device copy kept by differences agrees over 10,000 operations", () => {
    forSeeds(10, (random) => {
      const slots = random.integer(1, 40);
      const rows = new RowSpace(slots);
      const table = new PageTable(rows);
      const device = new DeviceTable(table);
      const naive: number[][] = Array.from({ length: slots }, () => []);
      let page = 0;
      for (let operation = 0; operation < 1000; operation++) {
        const slot = random.integer(0, slots - 1);
        const pages = naive[slot];
        const kind = random.integer(0, 9);
        if (kind === 0) {
          pages.length = random.chance(0.3) ? 0 : random.integer(0, pages.length);
          table.cut(slot, pages.length);
          if (pages.length === 0) rows.release(slot);
        } else if (kind === 1 && pages.length > 0) {
          const column = random.integer(0, pages.length - 1);
          table.set(slot, column, (pages[column] = random.chance(0.5) ? -1 : page++));
        } else {
          const end = pages.length + random.pick([1, 2, 17, 300, 1000]);
          if (end > rows.capacities[slot]) table.moved(slot, rows.grow(slot, end), pages.length);
          while (pages.length < end) table.set(slot, pages.length, (pages.push(page), page++));
        }
        if (random.chance(0.3)) device.sync();
        if (!random.chance(0.05)) continue;
        device.sync();
        naive.forEach((expected, s) => {
          expect([...table.copy(s, expected.length)]).toEqual(expected);
          expect(device.pages(s, expected.length)).toEqual(expected);
        });
      }
    });
  });

  test("what was sent is not sent again, and what was cut not at all", () => {
    const table = tableOf(2, 20);
    const device = new DeviceTable(table);
    for (let column = 0; column < 9; column++) table.set(0, column, column);
    table.set(1, 3, 7);
    table.cut(0, 5);
    expect(device.sync()).toBe(6);
    expect(device.sync()).toBe(0);
    table.set(0, 4, 8);
    table.set(0, 1, -1);
    expect(device.sync()).toBe(1);
    expect(device.pages(0, 5)).toEqual([0, -1, 2, 3, 8]);
  });

  test.each([
    [2, 0, 1],
    [-1, 0, 1],
    [0, 16, 1],
    [0, -1, 1],
    [NaN, 0, 1],
    [0, 0.5, 1],
    [0, 0, -2],
    [0, 0, NaN],
  ])("refuses slot %p, column %p, page %p", (slot, column, page) => {
    const table = tableOf(2, 3);
    expect(() => table.set(slot, column, page)).toThrow(OptionError);
    expect(table.changedCount).toBe(0);
  });
});

describe("RowSpace", () => {
  test("rows never overlap, and blocks that are free again serve rows of any size", () => {
    forSeeds(20, (random) => {
      const slots = random.integer(1, 60);
      const rows = new RowSpace(slots);
      const most = random.pick([20, 300, 5000]);
      for (let operation = 0; operation < 500; operation++) {
        const slot = random.integer(0, slots - 1);
        const columns = random.integer(1, most);
        if (random.chance(0.3)) rows.release(slot);
        else if (columns > rows.capacities[slot]) rows.grow(slot, columns);
        const used = Array.from(rows.starts, (start, s) => [start, rows.capacities[s]])
          .filter(([, size]) => size > 0)
          .sort(([a], [b]) => a - b);
        used.forEach(([start, size], i) => {
          expect(start % size).toBe(0);
          expect(start + size).toBeLessThanOrEqual(used[i + 1]?.[0] ?? rows.end);
        });
      }
      const { end } = rows;
      for (let slot = 0; slot < slots; slot++) rows.release(slot);
      // All that was ever used is one stretch again.
      const size = 2 ** Math.floor(Math.log2(end));
      expect(rows.grow(0, size)).toBe(0);
      expect([rows.starts[0], rows.end]).toEqual([0, end]);
    });
  });

  test("refuses what int32 cannot index", () => {
    const rows = new RowSpace(2);
    rows.grow(0, 2 ** 30);
    expect(() => rows.grow(1, 2 ** 30)).toThrow(OptionError);
    expect(() => rows.grow(1, 2 ** 31 - 1)).toThrow(/page tables must be at most/);
    expect([rows.end, rows.capacities[1]]).toEqual([2 ** 30, 0]);
  });
});
