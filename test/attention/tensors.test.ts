import { expect, test } from "bun:test";
import { type PlainTensors, sameTensors, tensorNames } from "../../src/attention/tensors.ts";

test("runs have the same tensors unless any of them differs", () => {
  const some = { q: {}, out: {}, lse: {} } as PlainTensors;
  expect(sameTensors(some, { ...some, layer: 3 })).toBe(true);
  for (const name of tensorNames) {
    expect(sameTensors(some, { ...some, [name]: {} })).toBe(false);
    expect(sameTensors({ ...some, [name]: undefined }, { ...some, [name]: {} })).toBe(false);
  }
});
