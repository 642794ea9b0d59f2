/** Keys in two pieces, values in pages of their own, rows beside pages: on every device. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import { PageLists } from "../../src/cache/page-lists.ts";
import { Device } from "../../src/device/device.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { pagesLayout } from "../../src/kv/layout.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { defineVariant } from "../../src/variant/define.ts";
import { type Case, caseOf } from "../support/cases.ts";
import { deviceTargets } from "../support/targets.ts";
import { runCase } from "../support/world.ts";

const lengths = { queryLengths: [1, 20, 3, 1], kvLengths: [37, 20, 50, 90] };
const half = { dtype: "bf16", valueDim: 64, headDim: 64 } as const;

/** A decode and a prompt of every option, in the dtypes that a GPU takes too. */
const cases: Case[] = [
  caseOf("keys in two pieces", { ...lengths, ...half, keyTail: true }),
  caseOf("fp8 keys in two pieces", { ...lengths, ...half, keyTail: true, kvDtype: "f8e4m3" }),
  caseOf("keys in two pieces, whose ends turn", {
    ...lengths,
    ...half,
    keyTail: true,
    rope: { theta: 1e4, interleaved: false, first: 48, dim: 16 },
  }),
  caseOf("keys in two pieces, of which some numbers are none", {
    ...lengths,
    ...half,
    keyTail: true,
    notFinite: true,
  }),
  caseOf("values in pages of their own", { ...lengths, ...half, callers: true, valuePages: true }),
  caseOf("fp8 values in pages of their own, a scale for each token", {
    ...lengths,
    ...half,
    callers: true,
    valuePages: true,
    kvDtype: "f8e4m3",
    scales: "token",
  }),
  caseOf("values in pages of their own, of which some numbers are none", {
    ...lengths,
    ...half,
    callers: true,
    valuePages: true,
    notFinite: true,
  }),
  caseOf("rows beside pages", { ...lengths, ...half, raggedRows: true }),
  caseOf("fp8 rows beside pages, in windows", {
    ...lengths,
    ...half,
    raggedRows: true,
    kvDtype: "f8e4m3",
    windowLeft: 12,
    scales: "head",
  }),
  caseOf("rows beside pages, masked, of which some numbers are none", {
    ...lengths,
    ...half,
    raggedRows: true,
    mask: "all",
    notFinite: true,
  }),
];

describe.each(await deviceTargets())("places on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
  });
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  test.each(cases.map((c): [string, Case] => [c.name, c]))("%s", (_, c) => {
    runCase(device, c);
  });
});

describe("what is refused", () => {
  const heads = { queryHeads: 2, kvHeads: 1, headDim: 32, dtype: "f32" } as const;
  let device: Device;
  beforeAll(async () => {
    // In f32, which GPUs do not take.
    device = await Device.open("cpu", { threads: 1 });
  });
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  const slots = defineVariant({
    name: "slots",
    value: (x, { slot }) => x.add(slot.toF32()),
  });

  test.each([
    [{ keyTail: 32 }, /keyTail must be below headDim \(32\)/],
    [{ keyTail: 8 }, /keyTail must be a multiple of 16/],
    [{ keyTail: 16, rope: { theta: 1e4 } }, /rope must be elements before 16 or from it on/],
    [{ raggedRows: true, keyTail: 16 }, /raggedRows must be false with keyTail/],
    [{ raggedRows: true, keyPositions: true }, /raggedRows must be false with keyPositions/],
    [{ raggedRows: true, variant: slots }, /raggedRows must be false: the value hook/],
    [{ valuePages: true, variant: slots }, /valuePages must be false: the value hook/],
  ])("options %o", (over, says) => {
    expect(() => Attention.createSync(device, { ...heads, ...over })).toThrow(says);
  });

  const zeros = (...shape: number[]) => Tensor.zeros(device, shape, "f32");
  const ints = (...values: number[]) => Tensor.from(device, values, [1, values.length], "i32");
  /** A request of 20 tokens in two of four pages, and a run of it. */
  const batch = createBatch({
    queryLengths: [1],
    layout: pagesLayout(16, Int32Array.of(0, 1), Int32Array.of(0), Int32Array.of(20)),
  });
  const beside = createBatch({
    queryLengths: [1, 1],
    layout: pagesLayout(
      16,
      Int32Array.of(0, 1, 2),
      Int32Array.of(0, 0),
      Int32Array.of(20, 5),
      [-1, 3],
    ),
  });
  const plain = (dim = 32, tokens = 1) => ({
    q: zeros(tokens, 2, 32),
    k: zeros(4, 16, 1, dim),
    v: zeros(4, 16, 1, 32),
    out: zeros(tokens, 2, 32),
    pageTable: ints(2, 1),
  });

  test("ends of keys that are missing, of another size, or not asked for", () => {
    using attention = Attention.createSync(device, { ...heads, keyTail: 16 });
    attention.plan(batch);
    expect(() => attention.run(plain(16))).toThrow(/kTail must be given: the options say keyTail/);
    const narrow = { ...plain(16), kTail: zeros(4, 16, 1, 8) };
    expect(() => attention.run(narrow)).toThrow(/kTail must be \[pages, 16, 1, 16 or more\]/);
    const f16 = { ...plain(16), kTail: Tensor.zeros(device, [4, 16, 1, 16], "f16") };
    expect(() => attention.run(f16)).toThrow(/kTail must be f32/);
    using other = Attention.createSync(device, heads);
    other.plan(batch);
    const given = { ...plain(), kTail: zeros(4, 16, 1, 16) };
    expect(() => other.run(given)).toThrow(/kTail must be left out/);
  });

  test("page tables of values that are missing, of another shape, or lead out", () => {
    using attention = Attention.createSync(device, { ...heads, valuePages: true });
    attention.plan(batch);
    expect(() => attention.run(plain())).toThrow(/valuePageTable must be given/);
    const long = { ...plain(), valuePageTable: ints(0, 1, 2) };
    expect(() => attention.run(long)).toThrow(/valuePageTable must be as i32 tensor \[1, 2\]/);
    const out = { ...plain(), valuePageTable: ints(0, 4) };
    expect(() => attention.run(out)).toThrow(/valuePageTable\[0, 1\] must be a page from 0 to 3/);
    attention.run({ ...plain(), valuePageTable: ints(0, 3) });
    using other = Attention.createSync(device, heads);
    other.plan(batch);
    const given = { ...plain(), valuePageTable: ints(0, 1) };
    expect(() => other.run(given)).toThrow(/valuePageTable must be left out/);
  });

  test("rows beside pages that nobody asked for, or that are not there", () => {
    using other = Attention.createSync(device, heads);
    expect(() => other.plan(beside)).toThrow(/raggedRows must be true for a batch with/);
    using attention = Attention.createSync(device, { ...heads, raggedRows: true });
    attention.plan(beside);
    expect(() => attention.run(plain(32, 2))).toThrow(/kRagged must be given/);
    const few = { ...plain(32, 2), kRagged: zeros(7, 1, 32), vRagged: zeros(8, 1, 32) };
    expect(() => attention.run(few)).toThrow(/kRagged must be 8 tokens or more/);
    attention.run({ ...few, kRagged: zeros(8, 1, 32) });
  });

  test("a step whose rows lie in no pages", () => {
    const sizes = { pageSize: 16, pageCount: 4, maxBatch: 2, maxQueryTokens: 8, maxEntries: 8 };
    using lists = PageLists.create(device, sizes);
    const tables = { queryIndptr: [0, 4, 5], indptr: [0, 0, 2], indices: [3, 1] };
    const step = { ...tables, kvLengths: [4, 20], raggedStarts: [0, -1], writes: false };
    expect([...lists.step(step).layout.levels[0].slots.subarray(0, 2)]).toEqual([-1, 0]);
    expect(() => lists.step({ ...step, writes: true })).toThrow(/raggedStarts must be left out/);
    const paged = { ...step, indptr: [0, 1, 2] };
    expect(() => lists.step(paged)).toThrow(/raggedStarts\[0\] must be -1 of a request with/);
    expect(() => lists.step({ ...step, raggedStarts: [0] })).toThrow(
      /raggedStarts.length must be 2/,
    );
    const last = { ...tables, lastPageLength: [0, 4], raggedStarts: [0, -1], writes: false };
    expect(() => lists.step(last)).toThrow(/lastPageLength must be kvLengths beside raggedStarts/);
    // The step after it has pages again.
    expect(lists.step({ ...step, raggedStarts: null, kvLengths: [0, 20] }).layout.raggedRows).toBe(
      false,
    );
  });
});
