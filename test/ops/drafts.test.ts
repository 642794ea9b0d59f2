import { describe, expect, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import { OptionError } from "../../src/errors.ts";
import { matchDrafts, verifyDrafts, type VerifyOptions } from "../../src/ops/drafts.ts";
import { sample } from "../../src/ops/sample.ts";
import { type DType, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { forSeeds, type Random, seeded } from "../support/random.ts";
import { chiSquare, philox, race, uniform } from "../support/sampling.ts";
import { targetsHere } from "../support/targets.ts";

/** Whether a row takes a hundredth of a second. */
const isSlow = ({ kind, properties }: Device) => kind === "cuda" && properties.emulated !== 0;

/** Rows of probabilities; some tokens have none. */
function probabilities(random: Random, rows: number, vocabulary: number, dtype: DType) {
  const all = new Float64Array(rows * vocabulary);
  for (let row = 0; row < rows; row++) {
    const x: number[] = Array.from({ length: vocabulary }, () =>
      random.chance(0.2) ? 0 : Math.exp(random.normal() * 2),
    );
    if (!x.some((value) => value > 0)) x[0] = 1;
    const sum = x.reduce((a, b) => a + b, 0);
    all.set(
      x.map((value) => value / sum),
      row * vocabulary,
    );
  }
  return roundTo(dtype, all);
}

interface Request {
  drafts: number[];
  /** The node that each draft follows. */
  parents: number[];
  p: (node: number) => Float64Array;
  q: (node: number) => Float64Array;
}

interface Outcome {
  tokens: number[];
  path: number[];
  /** False where rounding may decide otherwise. */
  isClear: boolean;
}

/** Speculative sampling of a tree by its definition: residuals are made and normalised in full. */
function verifyOracle(request: Request, seed: bigint, position: number): Outcome {
  const { drafts, parents, p, q } = request;
  const outcome: Outcome = { tokens: [], path: [], isClear: true };
  const normal = (x: Float64Array) => {
    const sum = x.reduce((a, b) => a + b, 0);
    return x.map((value) => value / sum);
  };
  for (let node = 0; ;) {
    const place = BigInt(position + outcome.path.length);
    let left = normal(p(node));
    let next = -1;
    for (let draft = node; draft < drafts.length && next < 0; draft++) {
      if (parents[draft] !== node) continue;
      const token = drafts[draft];
      const u = uniform(philox(seed, place, 1, draft));
      const [accept, refuse] = [left[token], u * q(node)[token]];
      if (Math.abs(accept - refuse) < 1e-4 * (accept + refuse)) outcome.isClear = false;
      if (refuse < accept) next = draft;
      else left = normal(left.map((value, i) => Math.max(0, value - q(node)[i])));
    }
    if (next < 0) {
      const tokens = [...left.keys()].filter((token) => left[token] > 0);
      const won = race((token) => left[token], tokens, seed, place, 2);
      if (won.lead < 1.001) outcome.isClear = false;
      outcome.tokens.push(won.token);
      return outcome;
    }
    outcome.tokens.push(drafts[next]);
    outcome.path.push(next);
    node = next + 1;
  }
}

/** A draw by probabilities. */
function drawn(random: Random, x: Float64Array): number {
  let u = random.next() * x.reduce((a, b) => a + b, 0);
  for (const [token, value] of x.entries()) if (value > 0 && (u -= value) < 0) return token;
  return x.findIndex((value) => value > 0);
}

function padded(values: readonly number[], length: number): number[] {
  return [...values, ...new Array<number>(length - values.length).fill(-1)];
}

/** Random trees of a few rows: what stands is what the definition says. */
function checkVerify(device: Device, random: Random, kind: "chain" | "tree" | "siblings"): number {
  const isTree = kind !== "chain";
  const dtype = random.pick(["f32", "bf16"] as const);
  const [rows, count] = [random.integer(1, 4), random.integer(1, 6)];
  const vocabulary = random.pick([3, 8, 60, 700]);
  const p = probabilities(random, rows * (count + 1), vocabulary, dtype);
  // Drafts are near the target where it is short of probability, so that some are accepted.
  const q = probabilities(random, rows * count, vocabulary, "f32");
  for (let row = 0; row < rows; row++)
    for (let i = 0; i < count * vocabulary; i++)
      q[row * count * vocabulary + i] =
        0.5 * q[row * count * vocabulary + i] + 0.5 * p[row * (count + 1) * vocabulary + i];
  const shares = roundTo("f32", q);
  const requests = Array.from({ length: rows }, (_, row): Request => {
    const of = (all: Float64Array, nodes: number) => (node: number) =>
      all.subarray((row * nodes + node) * vocabulary, (row * nodes + node + 1) * vocabulary);
    const parents = Array.from(
      { length: count },
      (_, i) => ({ chain: i, tree: random.integer(0, i), siblings: 0 })[kind],
    );
    const draw = of(shares, count);
    const drafts = parents.map((node) => drawn(random, draw(node)));
    return { drafts, parents, p: of(p, count + 1), q: draw };
  });
  const counts = requests.map(() => random.integer(0, count));
  const seeds = requests.map(() => random.integer(0, 1000));
  const positions = requests.map(() => random.integer(0, 1000));
  using drafts = Tensor.from(
    device,
    requests.flatMap((r) => r.drafts),
    [rows, count],
    "i32",
  );
  using parents = Tensor.from(
    device,
    requests.flatMap((r) => r.parents),
    [rows, count],
    "i32",
  );
  using target = Tensor.from(device, p, [rows, count + 1, vocabulary], dtype);
  using draft = Tensor.from(device, shares, [rows, count, vocabulary], "f32");
  using have = Tensor.from(device, counts, [rows], "i32");
  using seed = Tensor.from(device, seeds.map(BigInt), [rows], "i64");
  using position = Tensor.from(device, positions, [rows], "i32");
  using path = Tensor.zeros(device, [rows, count], "i32");
  using status = Tensor.from(device, new Array(rows).fill(7), [rows], "i32");
  const options: VerifyOptions = { counts: have, seed, position, path, status };
  if (isTree) options.parents = parents;
  const got = verifyDrafts(drafts, target, draft, options);
  const [tokens, accepted, taken] = [got.tokens, got.accepted, path].map((tensor) => [
    ...tensor.toFloat64Array(),
  ]);
  let clear = 0;
  for (const [row, request] of requests.entries()) {
    const own = { ...request, drafts: request.drafts.slice(0, counts[row]) };
    const wanted = verifyOracle(own, BigInt(seeds[row]), positions[row]);
    if (!wanted.isClear) continue;
    clear++;
    const of = (all: number[], length: number) => all.slice(row * length, (row + 1) * length);
    expect(of(tokens, count + 1)).toEqual(padded(wanted.tokens, count + 1));
    expect(of(taken, count)).toEqual(padded(wanted.path, count));
    expect(accepted[row]).toBe(wanted.path.length);
  }
  expect(status.toFloat64Array().every((bits) => bits === 0)).toBe(true);
  for (const tensor of [got.tokens, got.accepted]) tensor[Symbol.dispose]();
  return clear;
}

describe.each(await targetsHere())("drafts on $name", (target) => {
  test("chains and trees agree with the definition of speculative sampling", async () => {
    await using device = await target.open(2);
    let clear = 0;
    const cases = isSlow(device) ? 16 : 120;
    const kinds = ["chain", "tree", "siblings"] as const;
    forSeeds(cases, (random) => (clear += checkVerify(device, random, random.pick(kinds))));
    if (process.env["SEED"] === undefined) expect(clear).toBeGreaterThan(cases);
  });

  test("what is emitted is distributed as the target, whatever drafts were", async () => {
    await using device = await target.open(2);
    const random = seeded(9);
    const vocabulary = 12;
    const rows = isSlow(device) ? 60 : 30_000;
    const p = probabilities(random, 3, vocabulary, "f32");
    const q = probabilities(random, 1, vocabulary, "f32");
    // Two candidates for the first token, each drawn from q.
    const drafts = Array.from({ length: 2 * rows }, () => drawn(random, q));
    using tokens = Tensor.from(device, drafts, [rows, 2], "i32");
    using parents = Tensor.zeros(device, [rows, 2], "i32");
    using targets = Tensor.from(device, p, [1, 3, vocabulary], "f32");
    using shares = Tensor.from(device, [...q, ...q], [1, 2, vocabulary], "f32");
    const spread = ({ address, shape, strides }: Tensor) =>
      Tensor.fromPointer(device, address, [rows, shape[1], vocabulary], "f32", {
        strides: [0, strides[1], 1],
      });
    const got = verifyDrafts(tokens, spread(targets), spread(shares), { parents, seed: 77 });
    const all = got.tokens.toFloat64Array();
    const counts = new Array<number>(vocabulary).fill(0);
    for (let row = 0; row < rows; row++) counts[all[3 * row]]++;
    expect(chiSquare(counts, p.subarray(0, vocabulary))).toBeLessThan(5);
  });

  test("drafts of sample with the same seeds leave the target's distribution as it is", async () => {
    await using device = await target.open(2);
    const rows = isSlow(device) ? 400 : 100_000;
    const [p, q] = [
      [0.1, 0.3, 0.6],
      [0.8, 0.1, 0.1],
    ];
    using target1 = Tensor.from(device, [...p, ...p], [2, 3], "f32");
    using draft1 = Tensor.from(device, q, [1, 3], "f32");
    const spread = ({ address, shape }: Tensor) =>
      Tensor.fromPointer(device, address, [rows, shape[0], 3], "f32", { strides: [0, 3, 1] });
    const shares = spread(draft1);
    const drafts = sample(shares.select(1, 0), { from: "probabilities" });
    const got = verifyDrafts(drafts.reshape(rows, 1), spread(target1), shares);
    const counts = [0, 0, 0];
    const all = got.tokens.toFloat64Array();
    for (let row = 0; row < rows; row++) counts[all[2 * row]]++;
    expect(chiSquare(counts, p)).toBeLessThan(5);
  });

  test("matched: the longest path of the target's own tokens, and one more", async () => {
    await using device = await target.open(2);
    forSeeds(isSlow(device) ? 10 : 100, (random) => {
      const [rows, count] = [random.integer(1, 200), random.integer(1, 9)];
      const pick = (length: number) => Array.from({ length }, () => random.integer(0, 2));
      const [drafts, targets] = [pick(rows * count), pick(rows * (count + 1))];
      const parents = drafts.map((_, i) => random.integer(0, i % count));
      const isTree = random.chance(0.5);
      using tokens = Tensor.from(device, drafts, [rows, count], "i32");
      using own = Tensor.from(device, targets, [rows, count + 1], "i32");
      using tree = Tensor.from(device, parents, [rows, count], "i32");
      using path = Tensor.zeros(device, [rows, count], "i32");
      const got = matchDrafts(tokens, own, isTree ? { parents: tree, path } : { path });
      const [out, accepted, taken] = [got.tokens, got.accepted, path].map((tensor) => [
        ...tensor.toFloat64Array(),
      ]);
      for (let row = 0; row < rows; row++) {
        const wanted: Outcome = { tokens: [], path: [], isClear: true };
        let node = 0;
        for (let i = 0; i < count; i++) {
          const parent = isTree ? parents[row * count + i] : i;
          if (parent !== node || drafts[row * count + i] !== targets[row * (count + 1) + node])
            continue;
          wanted.tokens.push(drafts[row * count + i]);
          wanted.path.push(i);
          node = i + 1;
        }
        wanted.tokens.push(targets[row * (count + 1) + node]);
        const at = (count + 1) * row;
        expect(out.slice(at, at + count + 1)).toEqual(padded(wanted.tokens, count + 1));
        expect(taken.slice(row * count, (row + 1) * count)).toEqual(padded(wanted.path, count));
        expect(accepted[row]).toBe(wanted.path.length);
      }
    });
  });

  test("tokens and parents that are none, and no mass, end with a stated result", async () => {
    await using device = await target.open(1);
    using drafts = Tensor.from(device, [-1, 99, 1, 1, 1, 1, 1, 1], [4, 2], "i32");
    // The third row's parents would be a circle, and the last one's first draft comes too early.
    using parents = Tensor.from(device, [0, 0, 7, -4, 2, 1, 2, 0], [4, 2], "i32");
    const p = [1, 0, 0.5, 0.5, 0, 1];
    const all = [...p, ...p, 0, 0, NaN, 0, 0, 0, 0, 1, 0, 1, 0, 1];
    using own = Tensor.from(device, all, [4, 3, 2], "f32");
    using draft = Tensor.from(device, new Array(16).fill(0.5), [4, 2, 2], "f32");
    using status = Tensor.zeros(device, [4], "i32");
    using out = Tensor.zeros(device, [4, 3], "i32");
    verifyDrafts(drafts, own, draft, { parents, status, out });
    expect([...out.toFloat64Array()]).toEqual([0, -1, -1, 0, -1, -1, 0, -1, -1, 1, 1, -1]);
    expect([...status.toFloat64Array()]).toEqual([0, 0, 2, 0]);
  });

  test("what is no probability counts as 0 or 1, and is told", async () => {
    await using device = await target.open(1);
    // One draft a row, of token 0: its target, its own probabilities, the token behind it.
    const rows: [number[], number[], number, number][] = [
      [[1, 0, 0], [1, 0, 0], 0, 0],
      [[1 + 2 ** -20, 0, 0], [1, 0, 0], 0, 0],
      [[1, NaN, -1], [1, 0, 0], 0, 1],
      [[Infinity, 0, 0], [1, 0, 0], 0, 1],
      [[1e30, 0, 0], [1, 0, 0], 0, 1],
      [[1, 0, 0], [NaN, 0, 0], 0, 1],
      // Rejected: the draft's row is looked at whole, and the target's rest is token 2.
      [[0, 0, 1], [1, 0, 0], 2, 0],
      [[0, 0, 1e38], [1, 0, 0], 2, 1],
      [[0, 0, 1], [1, NaN, 0], 2, 1],
      [[0, 0, 1], [1, Infinity, 0], 2, 1],
      [[NaN, NaN, NaN], [1, 0, 0], 0, 3],
    ];
    const last = [0, 1, 0];
    using drafts = Tensor.zeros(device, [rows.length, 1], "i32");
    const targets = rows.flatMap(([target]) => [...target, ...last]);
    using own = Tensor.from(device, targets, [rows.length, 2, 3], "f32");
    using q = Tensor.from(
      device,
      rows.flatMap(([, each]) => each),
      [rows.length, 1, 3],
      "f32",
    );
    using status = Tensor.zeros(device, [rows.length], "i32");
    const got = verifyDrafts(drafts, own, q, { status });
    const tokens = [...got.tokens.toFloat64Array()];
    const stands = ([target]: (typeof rows)[number]) => target[0] >= 1;
    const wanted = rows.flatMap((row) => (stands(row) ? [0, 1] : [row[2], -1]));
    expect(tokens).toEqual(wanted);
    expect([...status.toFloat64Array()]).toEqual(rows.map((row) => row[3]));
  });
});

test.each(await targetsHere())("bad input is refused by name, on $name", async (on) => {
  await using device = await on.open(1);
  const zeros = (shape: number[], dtype: DType = "i32") => Tensor.zeros(device, shape, dtype);
  const drafts = zeros([2, 3]);
  const [p, q] = [zeros([2, 4, 5], "f32"), zeros([2, 3, 5], "f32")];
  const targets = zeros([2, 4]);
  const refused: [string, () => unknown][] = [
    ["drafts", () => verifyDrafts(zeros([6]), p, q)],
    ["drafts", () => verifyDrafts(zeros([2, 3], "i64"), p, q)],
    ["targetProbs", () => verifyDrafts(drafts, q, q)],
    ["targetProbs", () => verifyDrafts(drafts, zeros([2, 4, 5]), q)],
    ["draftProbs", () => verifyDrafts(drafts, p, zeros([2, 3, 6], "f32"))],
    ["parents", () => verifyDrafts(drafts, p, q, { parents: zeros([3]) })],
    ["counts", () => verifyDrafts(drafts, p, q, { counts: zeros([3]) })],
    ["seed", () => verifyDrafts(drafts, p, q, { seed: -1 })],
    ["position", () => verifyDrafts(drafts, p, q, { position: 0.5 })],
    ["targets", () => matchDrafts(drafts, zeros([2, 3]))],
    ["out", () => matchDrafts(drafts, targets, { out: targets })],
    ["path", () => matchDrafts(drafts, targets, { path: drafts })],
    ["options.seed", () => matchDrafts(drafts, targets, { seed: 1 } as object)],
  ];
  for (const [option, call] of refused) {
    let error: unknown;
    try {
      call();
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(OptionError);
    expect({ option: (error as OptionError).option }).toEqual({ option });
  }
});
