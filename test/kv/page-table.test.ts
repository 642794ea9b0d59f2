import { describe, expect, test } from "bun:test";
import { OptionError } from "../../src/errors.ts";
import { PageTable } from "../../src/kv/page-table.ts";
import { forSeeds } from "../support/random.ts";
import { DeviceTable } from "./model.ts";

describe("PageTable", () => {
  test("a device copy kept by differences agrees over 10,000 operations", () => {
    let whole = 0;
    let differences = 0;
    forSeeds(10, (random) => {
      const slots = random.integer(1, 40);
      const table = new PageTable(slots, random.integer(1, 30));
      const naive = new Map<string, number>();
      const device = new DeviceTable(table);
      for (let operation = 0; operation < 1000; operation++) {
        if (random.chance(0.005)) table.grow(table.stride + random.integer(-2, 5));
        const slot = random.integer(0, slots - 1);
        const column = random.integer(0, table.stride - 1);
        const page = random.integer(-1, 5);
        table.set(slot, column, page);
        naive.set(`${slot} ${column}`, page);
        expect(table.get(slot, column)).toBe(page);
        const indices = new Set<number>();
        for (let i = 0; i < table.updateCount; i++) indices.add(table.updates[2 * i]);
        expect(indices.size).toBe(table.updateCount);
        if (random.chance(0.02)) {
          if (device.sync()) whole++;
          else differences++;
          expect(device.data).toEqual(table.data);
          for (const [key, value] of naive) {
            const [s, c] = key.split(" ").map(Number);
            expect(device.data[s * table.stride + c]).toBe(value);
          }
        }
      }
    });
    if (process.env["SEED"] !== undefined) return;
    expect(whole).toBeGreaterThan(10);
    expect(differences).toBeGreaterThan(10);
  });

  test("setting the same page again is no difference", () => {
    const table = new PageTable(2, 2);
    table.set(0, 1, 7);
    table.set(0, 1, 7);
    table.set(0, 1, 8);
    expect(table.updateCount).toBe(1);
    expect([...table.updates.subarray(0, 2)]).toEqual([1, 8]);
  });

  test("differences that nobody takes stay bounded", () => {
    const table = new PageTable(100, 100);
    for (let i = 0; i < 10_000; i++) table.set(i % 100, Math.floor(i / 100), i);
    expect(table.version).toBeGreaterThan(1);
    expect(table.updates.length).toBeLessThan(10_000);
  });

  test.each([
    [2, 0, 1],
    [-1, 0, 1],
    [0, 3, 1],
    [0, -1, 1],
    [NaN, 0, 1],
    [0, 0.5, 1],
    [0, 0, -2],
    [0, 0, NaN],
  ])("refuses slot %p, column %p, page %p", (slot, column, page) => {
    const table = new PageTable(2, 3);
    expect(() => table.set(slot, column, page)).toThrow(OptionError);
    expect(table.updateCount).toBe(0);
    expect(table.data).toEqual(new Int32Array(6).fill(-1));
  });

  test("refuses sizes that int32 cannot index", () => {
    expect(() => new PageTable(0, 1)).toThrow(OptionError);
    expect(() => new PageTable(1 << 16, 1 << 16)).toThrow(OptionError);
    const table = new PageTable(1 << 10, 1);
    expect(() => table.grow(1 << 22)).toThrow(OptionError);
    expect(table.stride).toBe(1);
  });
});
