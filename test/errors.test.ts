import { expect, test } from "bun:test";
import { describe } from "../src/describe.ts";
import * as errors from "../src/errors.ts";
import { requireInteger } from "../src/require.ts";

test("what the package exports of errors is errors", () => {
  const { FlashbunError, ...others } = errors;
  for (const [name, Other] of Object.entries(others)) {
    expect(name).toEndWith("Error");
    expect(Other.prototype).toBeInstanceOf(FlashbunError);
  }
});

test.each([0, 3, 10])("%p is an integer from 0 to 10", (value) => {
  expect(() => requireInteger("count", value, 0, 10)).not.toThrow();
});

test.each([-1, 11, 0.5, NaN, Infinity, "3", 3n, null, undefined])("%p is none", (value) => {
  expect(() => requireInteger("count", value, 0, 10)).toThrow(
    `count must be an integer from 0 to 10 (got ${describe(value)}). Fix: `,
  );
});

test("values are described in few words", () => {
  const long = "x".repeat(100);
  expect(describe(long)).toBe(`"${"x".repeat(57)}..."`);
  expect(describe([1, "a", [2n]])).toBe('[1, "a", [2n]]');
  expect(describe(Array.from({ length: 9 }, (_, i) => i))).toBe("[0, 1, 2, 3, 4, 5, 6, 7, ...]");
  expect(describe(new Float32Array(3))).toBe("Float32Array of 12 bytes");
  expect(describe(new Map())).toBe("Map");
  expect(describe(Object.create(null))).toBe("object");
});
