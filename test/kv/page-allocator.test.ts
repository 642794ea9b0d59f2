import { describe, expect, test } from "bun:test";
import { OptionError } from "../../src/errors.ts";
import { PageAllocator } from "../../src/kv/page-allocator.ts";
import { forSeeds } from "../support/random.ts";

describe("PageAllocator", () => {
  test("agrees with a naive model over 10,000 operations and leaks nothing", () => {
    forSeeds(10, (random) => {
      const pages = random.integer(1, 40);
      const allocator = new PageAllocator(pages);
      const users = new Map<number, number>();
      const into = new Int32Array(64);
      for (let operation = 0; operation < 1000; operation++) {
        const used = [...users.keys()];
        const kind = random.integer(0, 2);
        if (kind === 0) {
          const count = random.integer(0, 6);
          const fits = count <= pages - users.size;
          expect(allocator.tryAllocate(count, into, 3)).toBe(fits);
          for (let i = 0; fits && i < count; i++) {
            expect(users.has(into[3 + i])).toBe(false);
            expect(into[3 + i]).toBeWithin(0, pages);
            users.set(into[3 + i], 1);
          }
        } else if (used.length > 0) {
          const page = random.pick(used);
          const count = users.get(page)!;
          if (kind === 1) {
            allocator.retain(page);
            users.set(page, count + 1);
          } else {
            expect(allocator.release(page)).toBe(count === 1);
            if (count === 1) users.delete(page);
            else users.set(page, count - 1);
          }
        }
        expect(allocator.freeCount).toBe(pages - users.size);
        expect(allocator.usedCount).toBe(users.size);
        for (let page = 0; page < pages; page++)
          expect(allocator.referenceCount(page)).toBe(users.get(page) ?? 0);
      }
      for (const [page, count] of users) for (let i = 0; i < count; i++) allocator.release(page);
      expect(allocator.freeCount).toBe(pages);
    });
  });

  test("take gives -1 when no page is free", () => {
    const allocator = new PageAllocator(1);
    expect(allocator.take()).toBe(0);
    expect(allocator.take()).toBe(-1);
  });

  test.each([0, -1, 1.5, NaN, "4"])("refuses %p pages", (pages) => {
    expect(() => new PageAllocator(pages as number)).toThrow(OptionError);
  });

  test("refuses pages that are free or do not exist, and changes nothing", () => {
    const allocator = new PageAllocator(4);
    const page = allocator.take();
    for (const bad of [1, -1, 4, NaN, 0.5, undefined as unknown as number]) {
      expect(() => allocator.retain(bad)).toThrow(OptionError);
      expect(() => allocator.release(bad)).toThrow(OptionError);
    }
    expect(() => allocator.referenceCount(4)).toThrow(OptionError);
    expect(allocator.referenceCount(page)).toBe(1);
    expect(allocator.freeCount).toBe(3);
  });

  test("refuses to write outside the given array", () => {
    const allocator = new PageAllocator(4);
    const into = new Int32Array(2);
    expect(() => allocator.tryAllocate(3, into, 0)).toThrow(OptionError);
    expect(() => allocator.tryAllocate(1, into, 2)).toThrow(OptionError);
    expect(() => allocator.tryAllocate(-1, into, 0)).toThrow(OptionError);
    expect(() => allocator.tryAllocate(NaN, into, 0)).toThrow(OptionError);
    expect(allocator.freeCount).toBe(4);
  });
});
