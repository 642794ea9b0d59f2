import { afterAll, beforeAll, describe, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { raggedLayout } from "../../src/kv/layout.ts";
import { defineCudaVariant, defineVariant } from "../../src/variant/define.ts";
import { type Case, caseOf } from "../support/cases.ts";
import { type Grid, randomExpression, type RandomExpression } from "../support/expressions.ts";
import { normals } from "../support/numbers.ts";
import { forSeeds, type Random } from "../support/random.ts";
import { optionsOf, Rig } from "../support/rig.ts";
import { gpuTarget } from "../support/targets.ts";
import { evaluated, hostTensor, type VariantCase } from "../support/variants.ts";
import { warmUp } from "../support/warm.ts";
import { raggedTensors, runCase } from "../support/world.ts";

const target = gpuTarget();

const tensors = {
  weights: { dtype: "f32", shape: ["headDim"] },
  bias: { dtype: "f16", shape: ["queryHeads", "any"] },
  scales: { dtype: "f32", shape: ["slots", "kvHeads"] },
} as const;
const scalars = { cap: "f32", skipped: "i32" } as const;
const hooks = ["query", "key", "value", "logits", "mask", "output"] as const;

/** All hooks, traced and in CUDA: two ways to say the same. */
const traced = (headDim: number) =>
  defineVariant({
    name: "all hooks",
    tensors,
    scalars,
    query: (x, { element, weights }) => {
      const root = x.mul(x).sum().div(headDim).add(1e-3).rsqrt();
      return x.mul(root).mul(weights.at(element));
    },
    key: (x, { element, weights }) => x.div(x.abs().max().add(0.5)).mul(weights.at(element)),
    value: (x, { slot, kvHead, scales }) => x.mul(scales.at(slot, kvHead)),
    logits: (x, { head, key, cap, bias }) => x.div(cap).tanh().mul(cap).add(bias.at(head, key)),
    mask: ({ key, skipped }) => key.mod(skipped).ne(1),
    output: (x, { lse, head }) => x.mul(head.toF32().add(1)).add(lse.mul(0.125)),
  });

const written = defineCudaVariant({
  name: "all hooks",
  tensors,
  scalars,
  hooks: [...hooks],
  source: `
    template <class V>
    FB_DEVICE void query(const fb_attention_params& p, const RowInputs&, V& v) {
        const float squares = v.sum([](int, float x) { return x * x; });
        const float root = rsqrt_approx(squares / V::dim + 1e-3f);
        for (int i = 0; i < 8; i++) v.x[i] *= root * weights(p, v.first + i);
    }
    template <class V>
    FB_DEVICE void key(const fb_attention_params& p, const KeyInputs&, V& v) {
        const float most = v.max([](int, float x) { return fabsf(x); });
        for (int i = 0; i < 8; i++) v.x[i] = v.x[i] / (most + 0.5f) * weights(p, v.first + i);
    }
    template <class V>
    FB_DEVICE void value(const fb_attention_params& p, const KeyInputs& key, V& v) {
        for (int i = 0; i < 8; i++) v.x[i] *= scales(p, key.slot, key.kv_head);
    }
    FB_DEVICE float logits(const fb_attention_params& p, const RowInputs& row,
                           const KeyInputs& key, float x) {
        return tanh_f32(x / cap(p)) * cap(p) + bias(p, row.head, key.key);
    }
    FB_DEVICE bool mask(const fb_attention_params& p, const RowInputs&, const KeyInputs& key) {
        return key.key % skipped(p) != 1;
    }
    FB_DEVICE float output(const fb_attention_params&, const RowInputs& row, float lse, int,
                           float x) {
        return x * (row.head + 1) + lse * 0.125f;
    }`,
});

function allHooks(headDim: number, variant = traced(headDim)): VariantCase {
  return {
    variant,
    inputs: ({ headDim, queryHeads, kvHeads, slots }, random) => ({
      weights: hostTensor([headDim], () => 0.5 + random.next()),
      bias: hostTensor([queryHeads, 50], () => random.normal()),
      scales: hostTensor([slots, kvHeads], () => 0.5 + random.next()),
      cap: 5,
      skipped: 3,
    }),
    meaning: (inputs) => evaluated(traced(headDim), inputs),
  };
}

/** Rows are split; the chunks of queries and keys are a power of two, or are not. */
function casesOf(made: (headDim: number) => VariantCase): Case[] {
  const make = (name: string, headDim: number, more: Partial<Case>) =>
    caseOf(name, { headDim, variant: made(headDim), dtype: "f16", outDtype: "f32", ...more });
  const even = { queryLengths: [70, 9], kvLengths: [90, 40] };
  return [
    make("decode", 32, { queryLengths: [1, 1], kvLengths: [70, 1500] }),
    make("prefill", 32, even),
    make("fp8, odd chunks", 40, { ...even, kvDtype: "f8e4m3", valueDim: 24 }),
    make("wide", 288, { queryLengths: [2, 20], kvLengths: [70, 30] }),
  ];
}

const shape = { headDim: 32, queryHeads: 4, kvHeads: 2, queries: 5, keys: 40 };

/** A case of one ragged request whose logits are a random expression, with queries and keys. */
interface RandomCase {
  c: Case;
  q: Float64Array;
  k: Float64Array;
}

function randomCase(random: Random): RandomCase {
  const { headDim, queryHeads, kvHeads, queries, keys } = shape;
  const q = normals(random, queries * queryHeads * headDim, "bf16");
  const k = normals(random, keys * kvHeads * headDim, "bf16");
  const made = randomExpression(random, { operations: 12, grid: gridOf(q, k) });
  const over: Partial<Case> = {
    seed: random.seed,
    dtype: "bf16",
    outDtype: "f32",
    pageSize: 0,
    causal: false,
    headDim,
    queryHeads,
    kvHeads,
    queryLengths: [queries],
    kvLengths: [keys],
  };
  const variant = { variant: made.variant, inputs: () => inputsOf(made) };
  return { c: caseOf("random logits", { ...over, variant }), q, k };
}

/** Every pair of the request, in the order of rows (query, head). */
function gridOf(q: Float64Array, k: Float64Array): Grid {
  const { headDim, queryHeads, kvHeads, queries, keys } = shape;
  const group = queryHeads / kvHeads;
  const rows = Array.from({ length: queries * queryHeads }, (_, row) => {
    const queryIndex = Math.floor(row / queryHeads);
    const head = row % queryHeads;
    return {
      queryIndex,
      queryToken: queryIndex,
      query: keys - queries + queryIndex,
      request: 0,
      head,
      kvHead: Math.floor(head / group),
      queryLength: queries,
      kvLength: keys,
    };
  });
  const x = new Float64Array(rows.length * keys).map((_, at) => {
    const row = Math.floor(at / keys);
    const from = ((at % keys) * kvHeads + rows[row].kvHead) * headDim;
    let sum = 0;
    for (let d = 0; d < headDim; d++) sum += q[row * headDim + d] * k[from + d];
    return sum / Math.sqrt(headDim);
  });
  const slots = Array.from({ length: keys }, (_, key) => ({ key, slot: key }));
  return { rows, keys: slots, x, xError: 1e-5 };
}

function inputsOf({ variant, scalars, tensors }: RandomExpression) {
  const named = variant.scalars.map(({ name }, i) => [name, scalars[i]] as const);
  const held = tensors.map(({ data, sizes }, i) => {
    return [variant.tensors[i].name, hostTensor([...sizes], (at) => data[at])] as const;
  });
  return Object.fromEntries([...named, ...held]);
}

describe.skipIf(target === undefined)(`attention with hooks on ${target?.name}`, () => {
  let device: Device;
  const expressions: RandomCase[] = [];
  forSeeds(20, (random) => expressions.push(randomCase(random)), 1000);
  const both = {
    traced: casesOf((headDim) => allHooks(headDim)),
    "in CUDA": casesOf((headDim) => allHooks(headDim, written)),
  };
  beforeAll(async () => {
    device = await target!.open(2);
    const cases = [...Object.values(both).flat(), ...expressions.map(({ c }) => c)];
    await warmUp(device, cases.map(optionsOf));
  }, 900_000);
  afterAll(() => device[Symbol.asyncDispose]());

  const named = Object.entries(both).flatMap(([name, cases]) =>
    cases.map((c) => [`${c.name}, ${name}`, c] as const),
  );
  test.each(named)("all hooks: %s", (_, c) => {
    runCase(device, c);
  });

  test.each(expressions.map((each) => [each.c.seed, each] as const))(
    "random logits, SEED=%p",
    (_, { c, q, k: keys }) => {
      using rig = new Rig(device, c);
      const v = rig.rows(shape.keys, shape.headDim);
      const request = { q, k: keys, v, places: Int32Array.from({ length: 40 }, (_, i) => i) };
      const { k, v: values } = raggedTensors(rig, [request]);
      const { queryLengths, kvLengths } = c;
      const layout = raggedLayout([0, shape.queries], [0, shape.keys]);
      rig.check(createBatch({ queryLengths, kvLengths, layout }), [request], { k, v: values });
      k[Symbol.dispose]();
      values[Symbol.dispose]();
    },
  );
});
