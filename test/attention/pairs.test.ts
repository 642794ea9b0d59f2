import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Device } from "../../src/device/device.ts";
import { sweepCases } from "../support/deep.ts";
import {
  checkPair,
  optionNames,
  type Pair,
  pairs,
  refusalOf,
  refusals,
  variations,
} from "../support/pairs.ts";
import { deviceTargets } from "../support/targets.ts";

test("every option stands in the table of pairs", () => {
  expect(Object.keys(variations).sort()).toEqual([...new Set(optionNames)].sort());
});

test("every refusal is of a pair", () => {
  for (const { when } of refusals) expect(pairs().some(({ c }) => when(c))).toBe(true);
});

describe.each(await deviceTargets())("pairs of options on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
  });
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  test("that are refused say so", () => {
    for (const pair of pairs())
      if (refusalOf(device, pair.c) !== undefined) checkPair(device, pair);
  });

  // On a GPU most pairs compile kernels of their own: a few seconds each on the emulated one. The
  // CPU takes a hundred a second. Wide heads have kernels of their own on a GPU alone.
  const onCpu = target.kind === "cpu";
  const rest = pairs().filter(
    ({ c }) =>
      !refusals.some(({ when, on }) => on === undefined && when(c)) &&
      !(onCpu && c.headDim === 512),
  );
  const slice = onCpu ? 1700 : 6;
  sweepCases("of all pairs", rest, slice, (pair, seed) => checkPair(device, pair, seed));
  if (onCpu) return;
  const prompts = rest.filter(({ c }) => c.headDim === 128);
  sweepCases("of short prompts", prompts, 2, (pair, seed) => checkPair(device, pair, seed));
  const sharing = rest.filter(({ c }) => c.shared);
  const isMade = ({ c }: Pair) => c.graph?.sharedPrefix === true;
  const made = sharing.filter(isMade);
  const other = sharing.filter((pair) => !isMade(pair));
  sweepCases("of graphs for shared prefixes", made, 1, (pair, seed) =>
    checkPair(device, pair, seed),
  );
  sweepCases("of other steps that share one", other, 1, (pair, seed) =>
    checkPair(device, pair, seed),
  );
});
