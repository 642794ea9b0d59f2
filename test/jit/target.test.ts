import { expect, test } from "bun:test";
import { DriverError } from "../../src/errors.ts";
import { targetOf } from "../../src/jit/target.ts";

const cases: [number, number, string[]][] = [
  [7, 5, ["sm_75"]],
  [8, 0, ["sm_80"]],
  [8, 6, ["sm_86", "sm_80"]],
  [8, 9, ["sm_89", "sm_80"]],
  [9, 0, ["sm_90a"]],
  [10, 0, ["sm_100a"]],
  [12, 1, ["sm_121a"]],
];
test.each(cases)("compute capability %i.%i runs images for %p", (major, minor, expected) => {
  expect(targetOf(major, minor).architectures).toEqual(expected as [string]);
});

test("the emulated GPU has images of its own, whatever it claims to be", () => {
  expect(targetOf(9, 0, true).architectures).toEqual(["emulated"]);
});

test("an older GPU is refused by name", () => {
  expect(() => targetOf(7, 2)).toThrow(DriverError);
  expect(() => targetOf(7, 2)).toThrow("compute capability 7.2; the kernels need 7.5 or later");
});
