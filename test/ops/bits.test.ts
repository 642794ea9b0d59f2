import { describe, expect, test } from "bun:test";
import { OptionError } from "../../src/errors.ts";
import { packBits, segmentPackBits } from "../../src/ops/bits.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { indptrOf } from "../support/numbers.ts";
import { forSeeds } from "../support/random.ts";
import { targetsHere } from "../support/targets.ts";

/** Bits of bools as their definition says. */
function packed(bools: readonly number[], order: "little" | "big"): number[] {
  const bytes = new Array<number>(Math.ceil(bools.length / 8)).fill(0);
  for (const [i, bool] of bools.entries())
    if (bool !== 0) bytes[i >> 3] += 2 ** (order === "little" ? i % 8 : 7 - (i % 8));
  return bytes;
}

describe.each(await targetsHere())("bits on $name", (target) => {
  test("are those of the definition, whole and by segment", async () => {
    await using device = await target.open(2);
    forSeeds(30, (random) => {
      const order = random.pick(["little", "big"] as const);
      const lengths = Array.from({ length: random.integer(0, 6) }, () =>
        random.pick([0, 1, 7, 8, 9, random.integer(0, 5000)]),
      );
      const bounds = indptrOf(lengths);
      const total = bounds[bounds.length - 1];
      const isBool = random.chance(0.5);
      const values = Array.from({ length: total }, () =>
        random.chance(0.5) ? 0 : isBool ? 1 : random.integer(1, 255),
      );
      using bools = Tensor.from(device, values, [total], isBool ? "bool" : "u8");
      using bits = packBits(bools, { order });
      expect([...bits.toBytes()]).toEqual(packed(values, order));
      const given = random.chance(0.5)
        ? bounds
        : Tensor.from(device, bounds, [bounds.length], random.pick(["i32", "i64"] as const));
      const made = segmentPackBits(bools, given, { order });
      const parts = lengths.map((length, s) =>
        packed(values.slice(bounds[s], bounds[s] + length), order),
      );
      expect([...made.bits.toBytes()]).toEqual(parts.flat());
      const starts = indptrOf(parts.map(({ length }) => length));
      expect([...made.indptr.toFloat64Array()]).toEqual(starts);
    });
  });

  test("refuse what is no bool, and bounds that go back or beyond", async () => {
    await using device = await target.open(1);
    const bools = Tensor.zeros(device, [9], "bool");
    const refused: [() => unknown, string][] = [
      [() => packBits(Tensor.zeros(device, [9], "i32")), "bools"],
      [() => packBits(bools, { order: "middle" as "big" }), "order"],
      [() => segmentPackBits(bools, [0, 10]), "indptr[1]"],
      [() => segmentPackBits(bools, [0, 5, 4]), "indptr[2]"],
      [() => segmentPackBits(bools, [1, 4]), "indptr[0]"],
      [() => segmentPackBits(bools, []), "indptr.length"],
      [() => segmentPackBits(bools, bools), "indptr"],
    ];
    for (const [pack, option] of refused) {
      expect(pack).toThrow(OptionError);
      expect(pack).toThrow(new RegExp(`^${RegExp.escape(option)} must be`));
    }
  });
});
