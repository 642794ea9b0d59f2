import { expect, test } from "bun:test";
import { Device } from "../../src/device/device.ts";
import { FlashbunError } from "../../src/errors.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { opcodes, type SectionName } from "../../src/variant/bytecode.ts";
import { defineVariant } from "../../src/variant/define.ts";
import { emitBytecode } from "../../src/variant/emit-bytecode.ts";
import { stage } from "../../src/variant/stages.ts";
import { randomExpression, randomGrid } from "../support/expressions.ts";
import { type Random, seeded } from "../support/random.ts";
import { VariantProbe } from "../support/variant-probe.ts";

const headerWords = 42;

/** A program with every section: words, hooks, loads, stores, reductions, partners, products. */
const everything = defineVariant({
  name: "everything",
  tensors: {
    a: { dtype: "f16", shape: [4, 5] },
    b: { dtype: "i32", shape: ["any"] },
    m: { dtype: "bf16", shape: ["queryHeads", 16, 16] },
  },
  scalars: { s: "f32" },
  query: (x, { query, element, m }) =>
    x
      .mul(x.sum())
      .matmul(m)
      .add(query.mul(element).toF32())
      .rotate({ dim: 4 }, (i) => [i.toF32(), query.toF32()]),
  key: (x, { key, element, a }) => x.mul(a.at(key, element.and(3))),
  value: (x, { slot, kvHead }) => x.add(slot.mul(kvHead).toF32()),
  logits: (x, { query, key, head, a, b, s }) => {
    b.put(query.add(key), query.mul(7).add(key));
    return x.mul(s).tanh().mul(a.at(head, key)).add(query.toF32().sin());
  },
  mask: ({ query, key }) => key.le(query).and(key.div(3).ne(query.mod(5))),
  output: (x, { head, lse, m }) => x.add(head.toF32()).matmul(m).mul(lse),
});

/** A word becomes another one: near, small, far, or of another place of the program. */
function mutate(random: Random, program: Int32Array): Int32Array {
  const changed = Int32Array.from(program);
  for (let i = random.integer(1, 3); i > 0; i--) {
    const header = random.chance(0.3);
    const at = header
      ? random.integer(0, headerWords - 1)
      : random.integer(headerWords, changed.length - 1);
    changed[at] = random.pick([
      changed[at] + random.integer(-2, 2),
      random.integer(0, 300),
      changed[at] ^ (1 << random.integer(0, 31)),
      random.pick([-1, 0x7fffffff, -0x80000000, 0x10000]),
      changed[random.integer(0, changed.length - 1)],
      random.integer(0, opcodes.length),
    ]);
  }
  return random.chance(0.1) ? changed.slice(0, random.integer(1, changed.length)) : changed;
}

test("3,000 broken programs run or are refused, and reach nothing else", async () => {
  const random = seeded(11);
  const sections: SectionName[] = ["logits", "query", "key", "value", "output"];
  const fence = 1 << 12;
  let device: Device | undefined;
  let refused = 0;
  let ran = 0;
  for (let i = 0; i < 3000; i++) {
    device ??= await Device.open("cpu", { threads: 1 });
    using probe = new VariantProbe(device);
    const made = random.chance(0.5)
      ? undefined
      : randomExpression(seeded(1 + (i % 500)), { operations: 12 });
    const { tensors: specs } = made?.variant ?? everything;
    const program = mutate(random, emitBytecode(stage(made?.variant ?? everything)));
    const shapes = made?.tensors.map(({ sizes }) => [...sizes]) ?? [[4, 5], [50], [2, 16, 16]];
    // Each tensor between elements that nothing may write to.
    const bases = specs.map(({ dtype }, at) => {
      const count = shapes[at].reduce((product, size) => product * size);
      return Tensor.from(device!, new Float64Array(count + 2 * fence), [count + 2 * fence], dtype);
    });
    const tensors = bases.map((base, at) => {
      const view = base.slice(0, fence, base.elements - fence).reshape(...shapes[at]);
      return { address: view.address, sizes: view.shape, strides: view.strides };
    });
    const section = made ? "logits" : random.pick(sections);
    const grid = made?.grid ?? randomGrid(random, random.integer(1, 40), random.integer(1, 40));
    const dim = 24;
    const vectors = section === "query" || section === "output" ? grid.rows : grid.keys;
    const x = section === "logits" ? grid.x : new Float64Array(vectors.length * dim).fill(1);
    const keysInside = random.chance(0.5);
    const masked = random.chance(0.5);
    try {
      probe.run({ ...grid, program, section, x, dim, keysInside, masked, scalars: [1], tensors });
      ran++;
      for (const base of bases) {
        const all = base.toFloat64Array();
        const outside = [...all.subarray(0, fence), ...all.subarray(all.length - fence)];
        if (i % 10 === 0) expect(outside.every((value) => value === 0)).toBe(true);
      }
    } catch (error) {
      if (!(error instanceof FlashbunError)) throw error;
      expect(error.message).toContain("status 2");
      refused++;
      for (const base of bases) base[Symbol.dispose]();
      await device[Symbol.asyncDispose]();
      device = undefined;
      continue;
    }
    for (const base of bases) base[Symbol.dispose]();
  }
  await device?.[Symbol.asyncDispose]();
  // Both happen often.
  expect(Math.min(ran, refused)).toBeGreaterThan(500);
}, 120_000);
