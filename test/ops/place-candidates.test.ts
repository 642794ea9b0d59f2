import { expect, test } from "bun:test";
import { placeCandidates } from "../../src/ops/place-candidates.ts";
import { type DType, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { forSeeds, type Random } from "../support/random.ts";
import { targetsHere } from "../support/targets.ts";

/** Candidates of every rank, some of no column, and the rows that they make. */
function given(random: Random, dtype: DType) {
  const [ranks, rows, k] = [random.integer(1, 4), random.integer(1, 5), random.integer(1, 70)];
  const columns = k + random.integer(0, 3000);
  const vocabulary = ranks * columns;
  const expected = new Float64Array(rows * vocabulary).fill(-Infinity);
  const parts = Array.from({ length: ranks }, (_, rank) => {
    const values = Array.from({ length: rows * k }, () => random.normal());
    const rounded = roundTo(dtype, Float64Array.from(values));
    const indices = Array.from({ length: rows }, () => {
      const columnsLeft = Array.from({ length: columns }, (_, column) => column);
      return Array.from({ length: k }, () => {
        const [column] = columnsLeft.splice(random.integer(0, columnsLeft.length - 1), 1);
        return random.chance(0.1) ? -1 - column : column;
      });
    }).flat();
    indices.forEach((column, i) => {
      const row = Math.floor(i / k);
      if (column >= 0) expected[row * vocabulary + rank * columns + column] = rounded[i];
    });
    return { values: rounded, indices };
  });
  return { ranks, rows, k, columns, vocabulary, parts, expected };
}

for (const target of await targetsHere())
  test(`${target.name}: candidates of ranks stand at their tokens, -inf elsewhere`, async () => {
    await using device = await target.open(2);
    forSeeds(target.kind === "cpu" ? 20 : 4, (random) => {
      const dtype = random.pick(["f32", "f16", "bf16"] as const);
      const { ranks, rows, k, columns, vocabulary, parts, expected } = given(random, dtype);
      // All ranks' columns, and behind them all values: the distance of ranks is that of columns.
      const all = (of: "values" | "indices") => parts.flatMap((part) => Array.from(part[of]));
      using indices = Tensor.from(device, all("indices"), [ranks * rows, k], "i32");
      const spaced = parts.flatMap(({ values }) => [...values, ...values]);
      const narrow = dtype === "f32" ? all("values") : spaced;
      using values = Tensor.from(device, narrow, [narrow.length / k, k], dtype);
      using out = Tensor.from(
        device,
        new Array(rows * vocabulary).fill(7),
        [rows, vocabulary],
        dtype,
      );
      const first = { values: values.slice(0, 0, rows), indices: indices.slice(0, 0, rows) };
      placeCandidates({ ...first, rankBytes: 4 * rows * k, ranks, columns }, out);
      expect(out.toFloat64Array()).toEqual(expected);
    });
  });
