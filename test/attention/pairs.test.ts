import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Device } from "../../src/device/device.ts";
import { OptionError } from "../../src/errors.ts";
import { sweepCases } from "../support/deep.ts";
import {
  optionNames,
  type Pair,
  pairs,
  refusalOf,
  refusals,
  runPair,
  variations,
} from "../support/pairs.ts";
import { deviceTargets } from "../support/targets.ts";

test("every option stands in the table of pairs", () => {
  expect(Object.keys(variations).sort()).toEqual([...new Set(optionNames)].sort());
});

test("every refusal is of a pair", () => {
  for (const { when } of refusals) expect(pairs().some(({ c }) => when(c))).toBe(true);
});

/** A pair agrees with the oracle, or is refused as the table says. */
function check(device: Device, pair: Pair, seed = 1): void {
  const c = { ...pair.c, seed };
  const refusal = refusalOf(device, c);
  if (refusal === undefined) return runPair(device, c);
  let error: unknown;
  try {
    runPair(device, c);
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toBeInstanceOf(OptionError);
  expect((error as Error).message).toMatch(refusal.says);
}

describe.each(await deviceTargets())("pairs of options on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
  });
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  test("that are refused say so", () => {
    for (const pair of pairs()) if (refusalOf(device, pair.c) !== undefined) check(device, pair);
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
  sweepCases("of all pairs", rest, slice, (pair, seed) => check(device, pair, seed));
  if (onCpu) return;
  const sharing = rest.filter(({ c }) => c.shared);
  const isMade = ({ c }: Pair) => c.graph?.sharedPrefix === true;
  const made = sharing.filter(isMade);
  const other = sharing.filter((pair) => !isMade(pair));
  sweepCases("of graphs for shared prefixes", made, 1, (pair, seed) => check(device, pair, seed));
  sweepCases("of other steps that share one", other, 1, (pair, seed) => check(device, pair, seed));
});
