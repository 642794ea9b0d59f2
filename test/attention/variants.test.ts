import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import type { Device } from "../../src/device/device.ts";
import type { Graph } from "../../src/device/graph.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { raggedLayout } from "../../src/kv/layout.ts";
import { blockMaskLayout } from "../../src/kv/sparse-layout.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { dumpLogits } from "../../src/variant/library.ts";
import { type Case, caseOf, outDimOf, queryDimOf } from "../support/cases.ts";
import { type LibraryCase, libraryCases } from "../support/library.ts";
import { indptrOf } from "../support/numbers.ts";
import { randomVariant } from "../support/random-variant.ts";
import { sweepSeeds } from "../support/deep.ts";
import { forSeeds, type Random, seeded } from "../support/random.ts";
import { optionsOf, Rig } from "../support/rig.ts";
import { caseOn, targetsHere } from "../support/targets.ts";
import { hostTensor, uploadInputs } from "../support/variants.ts";
import { warmUp } from "../support/warm.ts";
import { raggedTensors, runCase, World } from "../support/world.ts";

/**
 * A case of a variant; dims and dtypes are always the same, so a GPU compiles each variant once.
 */
function caseWith({ over, ...variant }: LibraryCase, name: string, more: Partial<Case> = {}): Case {
  return caseOf(name, { headDim: 32, kvDtype: "f32", ...more, ...over, variant });
}

function randomHooks(random: Random): Case {
  const variant = { name: "random", ...randomVariant(random) };
  const lengths = { queryLengths: [1, 5, 20], kvLengths: [45, 5, 30] };
  const over = { seed: 2 * random.seed + 1, pageSize: random.pick([0, 5, 16]), ...lengths };
  return caseWith(variant, variant.variant.name, over);
}

function casesOf(each: LibraryCase): Case[] {
  const lengths: [string, Partial<Case>][] = [
    ["decode", { queryLengths: [1, 1, 1], kvLengths: [37, 1, 80] }],
    ["prefill", { pageSize: 5, queryLengths: [40, 3, 33], kvLengths: [40, 50, 65] }],
    ["ragged", { pageSize: 0, queryLengths: [7, 1, 0, 20], kvLengths: [20, 66, 9, 41] }],
    ["a split row", { kvHeads: 1, queryLengths: [1, 2], kvLengths: [2500, 40] }],
    ["a split prefill", { kvHeads: 1, queryLengths: [40], kvLengths: [700] }],
  ];
  // Queries before position 0 have no rotation.
  if (each.variant.hooks.query === undefined || each.name === "QK norm") {
    const more = { pageSize: 0, queryLengths: [3, 2, 1], kvLengths: [0, 2, 1] };
    lengths.push(["rows without keys", more]);
  }
  return lengths.map(([name, more]) => caseWith(each, name, more));
}

/** Variants whose hooks look at lengths and positions in several ways. */
const lengthNames = ["window with sinks", "weights with an output hook and no softmax"];
const lengthCases = libraryCases.filter(({ name }) => lengthNames.includes(name));

/** Lengths that only the device knows: kernels clamp, and hooks get what is left. */
function clamped(device: Device, each: LibraryCase): void {
  const [queryLengths, kvLengths] = [
    [1, 7, 30],
    [40, 33, 70],
  ];
  using rig = new Rig(device, caseWith(each, "lengths"), { deviceLengths: true });
  const requests = kvLengths.map((keys, r) => {
    const q = rig.queries(queryLengths[r]);
    return { q, k: rig.rows(keys, 32, q), v: rig.rows(keys, 32) };
  });
  const { k, v } = raggedTensors(rig, requests);
  const layout = raggedLayout(indptrOf(queryLengths), indptrOf(kvLengths));
  const batch = createBatch({ queryLengths, kvLengths, layout });
  for (const [kv, queries] of [
    [undefined, undefined],
    [[12, 33, 41], undefined],
    [
      [12, 20, 41],
      [1, 3, 11],
    ],
  ])
    rig.check(batch, requests, { k, v }, { kv, queries });
  k[Symbol.dispose]();
  v[Symbol.dispose]();
}

/** The bits of a request's rows, alone and among neighbours. */
function invariant(device: Device, each: LibraryCase): void {
  const bitsOf = (others: [number, number][]) => {
    const lengths = [[40, 300] as const, ...others];
    const c = caseWith(each, "invariant", {
      batchInvariant: true,
      pageSize: 0,
      kvHeads: 1,
      queryLengths: lengths.map(([queries]) => queries),
      kvLengths: lengths.map(([, keys]) => keys),
    });
    const bytes = runCase(device, c);
    const rowBytes = bytes.length / lengths.reduce((sum, [queries]) => sum + queries, 0);
    return bytes.slice(0, 40 * rowBytes);
  };
  const alone = bitsOf([]);
  expect(bitsOf([[1, 900]])).toEqual(alone);
  expect(
    bitsOf([
      [7, 50],
      [33, 40],
      [1, 5],
    ]),
  ).toEqual(alone);
}

/** A cascade: three requests share two pages and go on alone. */
function sharedPrefix(device: Device, each: LibraryCase): void {
  using world = new World(device, caseWith(each, "a shared prefix"), { pages: 40 });
  const first = world.create();
  world.step([first], [35]);
  const all = [first, world.fork(first), world.fork(first)];
  world.step(all, [1, 1, 1], { share: true });
  world.step(all, [1, 9, 4], { share: true });
}

/** Some blocks of columns are kept at all, by query block. */
function sparse(device: Device, each: LibraryCase): void {
  using rig = new Rig(device, caseWith(each, "a sparse layout"));
  const { c, random } = rig;
  const [queryLengths, kvLengths] = [[20], [60]];
  const kept = [0, 1].map(() => [0, 1, 2, 3, 4, 5, 6, 7].filter(() => random.chance(0.6)));
  const layout = blockMaskLayout({
    queryIndptr: [0, 20],
    kvIndptr: [0, 60],
    blockRows: 12,
    blockColumns: 8,
    indptr: [0, kept[0].length, kept[0].length + kept[1].length],
    indices: kept.flat(),
  });
  const q = rig.queries(20);
  const request = {
    q,
    k: rig.rows(60, c.headDim, q),
    v: rig.rows(60, c.valueDim),
    places: Int32Array.from({ length: 60 }, (_, key) => key),
    visible: (query: number, _: number, key: number) =>
      kept[Math.floor(query / 12)].includes(key >> 3),
  };
  const { k, v } = raggedTensors(rig, [request]);
  rig.check(createBatch({ queryLengths, kvLengths, layout }), [request], { k, v });
  k[Symbol.dispose]();
  v[Symbol.dispose]();
}

const graph = { maxBatch: 4, maxQueryTokens: 4, maxColumns: 64 };

/** Decode steps, captured once and replayed, against the same steps run one by one. */
function replayed(device: Device, each: LibraryCase): void {
  const c = caseOn(device, caseWith(each, "a graph"));
  const { queryHeads, headDim, outDtype } = c;
  using world = new World(device, c, { pages: 90, attention: { graph } });
  using eager = Attention.createSync(device, optionsOf(c));
  const sequences = [300, 3, 20, 5].map((tokens) => {
    const sequence = world.create();
    world.grow([sequence], [tokens]);
    return sequence;
  });
  const sizes = {
    queryHeads,
    kvHeads: c.kvHeads,
    headDim,
    valueDim: c.valueDim,
    tokens: 4,
    slots: 90 * c.pageSize,
    queryLengths: [1, 1, 1, 1],
    kvLengths: [320, 320, 320, 320],
  };
  const { given, owned } = uploadInputs(
    device,
    each.variant,
    each.inputs?.(sizes, world.rig.random) ?? {},
  );
  using q = world.rig.upload(world.rig.queries(4), c.dtype, queryHeads, queryDimOf(c));
  using out = Tensor.empty(device, [4, queryHeads, outDimOf(c)], outDtype);
  let recorded: Graph | undefined;
  for (let step = 0; step < 4; step++) {
    const chosen = step === 2 ? sequences.slice(0, 3) : sequences;
    const batch = world.grow(chosen, new Array(chosen.length).fill(1));
    const { attention } = world.rig;
    const run = () => attention.run({ q, out, cache: world.cache, variantInputs: given });
    attention.plan(batch);
    if (recorded === undefined) {
      run();
      recorded = device.capture(device.stream, run);
    }
    device.stream.fill(out.address, 0xff, out.elements);
    recorded.replay(device.stream);
    const live = out.slice(0, 0, chosen.length);
    const bits = live.toFloat64Array();
    eager.plan(batch);
    eager.run({ q, out, cache: world.cache, variantInputs: given });
    const expected = live.toFloat64Array();
    // A list of columns and the hull of its ranges sum in other orders.
    const worst = bits.reduce((most, x, i) => Math.max(most, Math.abs(x - expected[i])), 0);
    expect(worst).toBeLessThan(outDtype === "f32" ? 1e-5 : 2e-2);
  }
  recorded![Symbol.dispose]();
  for (const tensor of owned) tensor[Symbol.dispose]();
}

for (const target of await targetsHere()) {
  describe(`variants on ${target.name}`, () => {
    let device: Device;
    beforeAll(async () => {
      device = await target.open(2);
      const optionsFor = (each: LibraryCase) => optionsOf(caseOn(device, caseWith(each, "any")));
      const lengths = lengthCases.map((each) => ({ ...optionsFor(each), deviceLengths: true }));
      await warmUp(device, [...[...libraryCases, dumping].map(optionsFor), ...lengths]);
    }, 900_000);
    afterAll(() => device[Symbol.asyncDispose]());

    for (const variant of libraryCases) {
      test(variant.name, () => {
        for (const c of casesOf(variant)) {
          try {
            runCase(device, c);
          } catch (cause) {
            throw new Error(`${c.name}: ${(cause as Error).message}`, { cause });
          }
        }
      });
      test(`${variant.name}: a shared prefix`, () => sharedPrefix(device, variant));
      test(`${variant.name}: a sparse layout`, () => sparse(device, variant));
      test(`${variant.name}: a graph`, () => replayed(device, variant));
    }

    test.each(lengthNames)("%s: lengths known only on the device", (name) => {
      clamped(
        device,
        lengthCases.find((each) => each.name === name)!,
      );
    });

    const fixed = ["window with sinks", "block mask", "soft cap", "FlashSigmoid"];
    test.each(fixed)("%s: a batch-invariant row has the same bits among neighbours", (name) => {
      invariant(
        device,
        libraryCases.find((each) => each.name === name)!,
      );
    });

    test.if(target.kind === "cpu")("weights that are scores near 0, whose terms cancel", () => {
      // Products of a query and a key, and what a hook adds.
      for (const seed of [213, 949]) runCase(device, randomHooks(seeded(seed)));
      const relu = libraryCases.find((each) => each.variant.name === "relu and projection")!;
      const over = { queryLengths: [40], kvLengths: [40], notFinite: true, seed: 28 };
      runCase(device, caseWith(relu, "relu", over));
    });

    test("random hooks mean what they evaluate to in f64", async () => {
      // A GPU compiles each of them.
      const seeds: Case[] = [];
      forSeeds(device.kind === "cpu" ? 40 : 3, (random) => seeds.push(randomHooks(random)));
      await warmUp(
        device,
        seeds.map((c) => optionsOf(caseOn(device, c))),
      );
      for (const c of seeds) {
        try {
          runCase(device, c);
        } catch (cause) {
          throw new Error(`${c.name}: ${(cause as Error).message}`, { cause });
        }
      }
    }, 300_000);

    test("dumped logits are those of the visible pairs", () => {
      using rig = new Rig(device, caseWith(dumping, "dump", { pageSize: 0 }));
      const { c } = rig;
      const q = rig.queries(9);
      const request = { q, k: rig.rows(30, c.headDim, q), v: rig.rows(30, c.valueDim) };
      const { k, v } = raggedTensors(rig, [request]);
      using dump = Tensor.from(device, new Float64Array(4 * 9 * 30).fill(NaN), [4, 9, 30], "f32");
      using queries = rig.upload(q, c.dtype, 4, 32);
      using out = Tensor.empty(device, [9, 4, 32], c.outDtype);
      const layout = raggedLayout([0, 9], [0, 30]);
      rig.attention.plan(createBatch({ queryLengths: [9], kvLengths: [30], layout }));
      rig.attention.run({ q: queries, k, v, out, variantInputs: { dump } });
      const logits = dump.toFloat64Array();
      for (let head = 0; head < 4; head++) {
        for (let query = 0; query < 9; query++) {
          for (let key = 0; key < 30; key++) {
            const value = logits[(head * 9 + query) * 30 + key];
            if (key > 21 + query) expect(value).toBeNaN();
            else expect(Math.abs(value - logitOf(request, query, head, key))).toBeLessThan(1e-4);
          }
        }
      }
      k[Symbol.dispose]();
      v[Symbol.dispose]();
    });
  });
}

const dumping: LibraryCase = {
  name: "dump logits",
  variant: dumpLogits(),
  inputs: ({ tokens }) => ({ dump: hostTensor([4, tokens, 1], () => 0) }),
};

/** scale * q.k of four query heads over two KV heads of 32 elements. */
function logitOf(
  r: { q: Float64Array; k: Float64Array },
  query: number,
  head: number,
  key: number,
) {
  let sum = 0;
  for (let d = 0; d < 32; d++)
    sum += r.q[(query * 4 + head) * 32 + d] * r.k[(key * 2 + (head >> 1)) * 32 + d];
  return sum / Math.sqrt(32);
}

describe.each((await targetsHere()).filter(({ kind }) => kind === "cpu"))(
  "variants and options on $name",
  (target) => {
    let device: Device;
    beforeAll(async () => {
      device = await target.open(2);
    });
    afterAll(() => device[Symbol.asyncDispose]());

    const sizes = { slice: 75, whole: 150 };
    sweepSeeds("random variants with random options agree with the oracle", sizes, (random) => {
      const { over, ...variant } = random.pick(libraryCases);
      const hooks = Object.keys(variant.variant.hooks);
      const { softmax } = variant.variant;
      const scores = softmax && !hooks.includes("logits");
      const count = random.integer(1, 3);
      const queryLengths = Array.from({ length: count }, () => random.integer(1, 30));
      const pageSize = random.pick([0, 1, 5, 16]);
      const c = caseOf(variant.name, {
        seed: random.seed,
        headDim: 32,
        variant,
        queryLengths,
        pageSize,
        kvLengths: queryLengths.map((queries) => queries + random.integer(0, 90)),
        queryHeads: random.pick([2, 6, 8]),
        causal: random.chance(0.5),
        windowLeft: random.chance(0.3) ? random.integer(0, 60) : -1,
        softCap: scores && random.chance(0.3) ? 3 : 0,
        alibi: scores && random.chance(0.3),
        sinks: softmax && random.chance(0.3),
        mask: random.pick(["none", "none", "all", "tail"]),
        scales: random.pick(["none", "head", "token"]),
        kvDtype: random.pick(["f32", "bf16", "f8e4m3"]),
        finalize: random.chance(0.8),
        batchInvariant: random.chance(0.2),
        ...over,
      });
      runCase(device, c);
    });
  },
);
