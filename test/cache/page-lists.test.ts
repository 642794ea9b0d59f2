import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { appendPages } from "../../src/cache/append-pages.ts";
import { Attention } from "../../src/attention/attention.ts";
import type { PageStepOptions } from "../../src/cache/page-list-options.ts";
import { PageLists } from "../../src/cache/page-lists.ts";
import type { Device } from "../../src/device/device.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { userPages } from "../../src/kv/user-pages.ts";
import { DisposedError, OptionError, PlanError } from "../../src/errors.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { caseOf } from "../support/cases.ts";
import { Engine, type EngineRequest, forms } from "../support/engine.ts";
import { indptrOf } from "../support/numbers.ts";
import { forSeeds, type Random } from "../support/random.ts";
import { deviceTargets } from "../support/targets.ts";

const shape = { queryHeads: 4, kvHeads: 2, headDim: 32 } as const;

describe.each(await deviceTargets())("page lists of an engine on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
  });
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  /** Steps of an engine, whose requests come, fork and grow. */
  function life(random: Random): void {
    const c = caseOf("engine", {
      ...shape,
      seed: random.seed,
      pageSize: random.pick([1, 2, 5, 16]),
      kvDtype: random.pick(["bf16", "f32", "f8e4m3"]),
      storage: random.pick(["NHD", "HND"]),
      windowLeft: random.chance(0.3) ? 20 : -1,
    });
    using engine = new Engine(device, c, { pages: 400 }, random);
    const alive: EngineRequest[] = [];
    for (let turn = 0; turn < 5; turn++) {
      alive.push(alive.length > 0 && random.chance(0.5) ? engine.fork(alive[0]) : engine.create());
      const counts = alive.map(() => random.pick([0, 1, 1, random.integer(2, 20)]));
      const queries = counts.map((count) => engine.rig.queries(count));
      const form = random.pick(forms);
      const share = form.endsWith("lists") && random.chance(0.6);
      const batch = engine.grow(alive, counts, queries, form, { share });
      engine.check(batch, alive, queries);
    }
  }

  test("random steps, in every form that lists have", () => {
    forSeeds(target.kind === "cpu" ? 40 : 8, life);
  }, 120_000);

  test("levels of the caller: a prefix of all, one of some, then each request's own", () => {
    forSeeds(target.kind === "cpu" ? 12 : 3, (random) => {
      const pageSize = random.pick([1, 4, 16]);
      const c = caseOf("levels", { ...shape, pageSize, causal: true, kvDtype: "bf16" });
      using engine = new Engine(device, c, { pages: 300 }, random);
      const whole = engine.create();
      engine.grow([whole], [2 * pageSize], [], "lists");
      const halves = [engine.fork(whole), engine.fork(whole)];
      engine.grow(halves, [3 * pageSize, pageSize], [], "lists");
      const own = [0, 0, 1, 1, 1].map((half) => engine.fork(halves[half]));
      const counts = [1, 3, 1, 0, 7];
      const queries = counts.map((count) => engine.rig.queries(count));
      engine.allot(own, counts);
      const form = random.pick(forms);
      const starts = indptrOf(counts);
      const tokens = starts[starts.length - 1];
      const [head, tails] = [2, [3, 1]];
      const first = engine.level([0, tokens], [whole.pages], [2 * pageSize], form);
      const rows = halves.map(({ pages }) => pages.slice(head));
      const lengths = tails.map((pages) => pages * pageSize);
      const second = engine.level([0, starts[2], tokens], rows, lengths, form);
      const last = engine.level(
        starts,
        own.map(({ pages }, i) => pages.slice(head + tails[i < 2 ? 0 : 1])),
        counts,
        form,
      );
      const batch = engine.lists.step({ ...last, shared: [first, second] });
      expect(batch.layout.levels.length).toBe(3);
      engine.append(batch, engine.newRows(own, counts, queries));
      engine.check(batch, own, queries);
    });
  });

  const sizes = { pageSize: 4, pageCount: 20, maxBatch: 3, maxQueryTokens: 8, maxEntries: 40 };
  const noise = (dims: number[], seed: number) =>
    Tensor.randomNormal(device, dims, "bf16", { seed });

  test("positions of queries and of keys are those that a batch made by hand has", () => {
    const options = { ...shape, dtype: "bf16", causal: true, rope: {} } as const;
    using lists = PageLists.create(device, sizes);
    using attention = Attention.createSync(device, {
      ...options,
      mask: "tail",
      keyPositions: true,
    });
    const pages = noise([20, 4, 2, 32], 1);
    const q = noise([8, 4, 32], 2);
    // Three drafts of a tree behind 6 tokens: two siblings, and a child of the first.
    const positions = [6, 6, 7, 2];
    const at = Int32Array.from({ length: 80 }, (_, i) => i % 11);
    using keyPositions = Tensor.from(device, at, [20, 4], "i32");
    using maskBits = Tensor.from(device, Uint8Array.of(0b01010001, 0b1, 0b1), [3], "u8");
    using maskIndptr = Tensor.from(device, [0, 2], [2], "i32");
    const pageIds = [3, 4, 5, 9];
    const outs = [0, 1].map(() => Tensor.zeros(device, [8, 4, 32], "bf16"));
    const indptr = [0, 3, 4];
    const last = { queryIndptr: [0, 3, 4], indptr, indices: pageIds, kvLengths: [9, 3] };
    const listed = lists.step({ ...last, positions, keyPositions: true });
    const user = userPages({ ...last, pageSize: 4, pageCount: 20 });
    const given = { kvLengths: last.kvLengths, layout: user.layout, positions };
    const byHand = createBatch({ queryLengths: [3, 1], ...given, keyPositions: true });
    const table = Tensor.from(device, user.table, [2, user.stride], "i32");
    for (const [i, batch] of [listed, byHand].entries()) {
      attention.plan(batch);
      const tensors = { q, k: pages, v: pages, out: outs[i], maskBits, maskIndptr, keyPositions };
      attention.run({ ...tensors, pageTable: i === 0 ? undefined : table });
    }
    expect(outs[0].toBytes()).toEqual(outs[1].toBytes());
    const wrong: [object, RegExp][] = [
      [{ positions: [6, 6, 7] }, /^positions.length must be 4/],
      [{ positions: [6, 6, 7, -1] }, /^positions\[3\] must be/],
      [{ keyPositions: 1 }, /^keyPositions must be true or false/],
    ];
    for (const [odd, sentence] of wrong)
      expect(() =>
        lists.step({ queryIndptr: [0, 3, 4], indptr, indices: pageIds, kvLengths: [9, 3], ...odd }),
      ).toThrow(sentence);
  });

  test("what was bound for one run is not taken for another's lists, layout or size", () => {
    const options = { ...shape, dtype: "bf16", causal: true } as const;
    // Pages of as many tokens as heads: either layout may be said of the same tensor.
    const squares = { ...sizes, pageSize: 2 };
    using attention = Attention.createSync(device, options);
    const all = [0, 1].map(() => PageLists.create(device, squares));
    const [k, v, q] = [noise([20, 2, 2, 32], 1), noise([20, 2, 2, 32], 2), noise([8, 4, 32], 3)];
    const outs = [0, 1].map(() => Tensor.zeros(device, [8, 4, 32], "bf16"));
    forSeeds(target.kind === "cpu" ? 40 : 6, (random) => {
      const lists = random.pick(all);
      const kvLengths = Array.from({ length: random.integer(1, 3) }, () => random.integer(1, 8));
      const indptr = indptrOf(kvLengths.map((length) => Math.ceil(length / 2)));
      const ids = Array.from({ length: indptr[kvLengths.length] }, () => random.integer(0, 19));
      const indices = random.chance(0.5) ? ids : Tensor.from(device, ids, [ids.length], "i32");
      const queryIndptr = indptrOf(kvLengths.map(() => 1));
      const batch = lists.step({ queryIndptr, indptr, indices, kvLengths, writes: false });
      const layout = random.pick(["NHD", "HND"] as const);
      using fresh = Attention.createSync(device, options);
      for (const [i, each] of [attention, fresh].entries()) {
        each.plan(batch);
        each.run({ q, k, v, out: outs[i], layout });
      }
      expect(outs[0].toBytes()).toEqual(outs[1].toBytes());
    });
    v[Symbol.dispose]();
    const layout = "NHD";
    expect(() => attention.run({ q, k, v, out: outs[0], layout })).toThrow(DisposedError);
    for (const owner of [...all, ...outs, k, q]) owner[Symbol.dispose]();
  });

  test("one capture, replayed over steps of other lengths, pages and forms", () => {
    const options = { ...shape, dtype: "bf16", causal: true } as const;
    const graph = { maxBatch: 3, maxQueryTokens: 8, maxColumns: 8 };
    using lists = PageLists.create(device, sizes);
    using attention = Attention.createSync(device, { ...options, graph });
    using plain = Attention.createSync(device, options);
    const [pages, values] = [noise([20, 4, 2, 32], 1), noise([20, 4, 2, 32], 2)];
    const [q, rows] = [noise([8, 4, 32], 3), noise([8, 2, 32], 4)];
    const [out, expected] = [0, 1].map(() => Tensor.zeros(device, [8, 4, 32], "bf16"));
    const tensor = (ids: number[]) => Tensor.from(device, ids, [ids.length], "i64");
    const last = { queryIndptr: [0, 1, 2], indptr: [0, 2, 5] };
    const steps: PageStepOptions[] = [
      { ...last, indices: [3, 4, 7, 8, 9], kvLengths: [5, 12] },
      { ...last, indices: tensor([5, 1, 0, 2, 6]), kvLengths: [8, 9] },
      { queryIndptr: [0, 2, 2], indptr: [0, 1, 1], indices: [11], kvLengths: [3, 0] },
      {
        queryIndptr: [0, 1, 2],
        indptr: [0, 1, 2],
        indices: [15, 16],
        kvLengths: [1, 4],
        shared: [{ queryIndptr: [0, 2], indptr: [0, 3], indices: [17, 18, 12], kvLengths: [12] }],
      },
      { ...last, indices: [3, 4, 3, 4, 9], kvLengths: [7, 9], writes: true, share: () => true },
    ];
    const body = () => {
      const batch = lists.lastBatch!;
      const planes = [
        { rows, pages },
        { rows: rows, pages: values },
      ];
      appendPages({ planes, batch });
      attention.run({ q, k: pages, v: values, out });
    };
    attention.plan(lists.step({ ...steps[0], padTo: 2 }));
    body();
    using captured = device.capture(device.stream, body);
    for (const step of steps.slice(0, 4)) {
      const batch = lists.step({ ...step, padTo: 2 });
      attention.plan(batch);
      captured.replay(device.stream);
      plain.plan(batch);
      plain.run({ q, k: pages, v: values, out: expected });
      const [got, wanted] = [out, expected].map((each) => each.slice(0, 0, 2).toFloat64Array());
      expect(got.some((value, i) => !(Math.abs(value - wanted[i]) <= 0.02))).toBe(false);
    }
    // A page that a request writes may not stand in another one's list.
    expect(() => lists.step({ ...steps[4], kvLengths: [8, 9] })).toThrow(
      /^indices\[1\] must be a page/,
    );
    attention.plan(lists.step({ ...steps[0], padTo: 3 }));
    expect(() => captured.replay(device.stream)).toThrow(/holds 3 padded tokens, the capture 2/);
    const stale = lists.lastBatch!;
    lists.step({ ...steps[0], padTo: 2 });
    expect(() => captured.replay(device.stream)).toThrow(PlanError);
    expect(() => attention.plan(stale)).toThrow(/the batch is stale/);
  });

  test("wrong steps are refused, and the last one still stands", () => {
    using lists = PageLists.create(device, sizes);
    const good = {
      queryIndptr: [0, 1, 3],
      indptr: [0, 1, 3],
      indices: [3, 4, 7],
      kvLengths: [2, 6],
    };
    const batch = lists.step(good);
    const ints = (values: number[], dims = [values.length]) =>
      Tensor.from(device, values, dims, "i32");
    const { lastPageLength } = { lastPageLength: [2, 2] };
    const shared = (queryIndptr: number[], indices = [9]) => [
      {
        queryIndptr,
        indptr: indices.map((_, i) => i).concat(indices.length),
        indices,
        kvLengths: indices.map(() => 4),
      },
    ];
    const wrong: [object, string][] = [
      [{ queryIndptr: [0, 3, 1] }, "queryIndptr[2]"],
      [{ queryIndptr: [0, 1, 2, 3] }, "indptr.length"],
      [{ indices: [3, 4, 20] }, "indices[2]"],
      [{ indices: [3, 4] }, "indices.length"],
      [{ indices: [3, 4, 3] }, "indices[0]"],
      [{ kvLengths: [2, 9] }, "kvLengths[1]"],
      [{ kvLengths: [0, 6] }, "queryIndptr[1] - queryIndptr[0]"],
      [{ kvLengths: undefined }, "lastPageLength"],
      [{ lastPageLength }, "lastPageLength"],
      [{ padTo: 2 }, "padTo"],
      [{ padTo: 9 }, "padTo"],
      [
        { queryIndptr: [0, 1, 2, 3, 3], indptr: [0, 1, 2, 3, 3], kvLengths: [1, 1, 1, 0] },
        "queryIndptr.length",
      ],
      [{ shared: shared([0, 2]) }, "shared[0].queryIndptr[1]"],
      [{ shared: shared([0, 2, 3], [9, 10]) }, "queryIndptr[2]"],
      [{ shared: [{ ...good, extra: 1 }] }, "shared[0].extra"],
      [{ indices: Tensor.zeros(device, [3], "f32") }, "indices"],
      [{ indices: ints([3, 4]) }, "indices"],
      [{ indices: ints([3, 4], [1, 2]), indptr: null }, "indices"],
      [
        { indices: ints([3, 4, 7, 8], [2, 2]), indptr: null, kvLengths: null, lastPageLength },
        "kvLengths",
      ],
      [{ indices: ints([3, 4, 7]), share: () => true }, "share"],
      [{ share: 1 }, "share"],
      [{ pages: 1 }, "options.pages"],
    ];
    for (const [change, option] of wrong) {
      const step = () => lists.step({ ...good, ...change } as PageStepOptions);
      expect(step).toThrow(OptionError);
      expect(step).toThrow(new RegExp(`^${RegExp.escape(option)} must be`));
      expect(batch.stale).toBe(false);
    }
    expect(() => PageLists.create(device, { ...sizes, maxBatch: 0 })).toThrow(/^maxBatch must be/);
    const planes = [{ rows: noise([3, 2, 32], 1), pages: noise([20, 4, 2, 32], 2) }];
    const append = (change: object) => () => appendPages({ planes, batch, ...change });
    expect(append({ slotMapping: ints([0, 1, 2]) })).toThrow(/^slotMapping must be left out/);
    const few = [{ rows: planes[0].rows, pages: noise([19, 4, 2, 32], 2) }];
    expect(append({ planes: few })).toThrow(/^planes must be 20 pages or more of 4 tokens/);
    lists.step({ ...good, writes: false });
    expect(append({})).toThrow(/the batch is stale/);
    expect(append({ batch: lists.lastBatch })).toThrow(/the step writes nothing/);
    lists.step({ ...good, indices: ints([3, 4, 20]) });
    if (device.checksContents)
      expect(append({ batch: lists.lastBatch })).toThrow(/^pageTable\[2\] must be 0 to 19/);
    const long = Tensor.from(device, BigInt64Array.of(3n, 2n ** 32n + 4n, 7n), [3], "i64");
    lists.step({ ...good, indices: long });
    if (device.checksContents)
      expect(append({ batch: lists.lastBatch })).toThrow(/^indices\[1\] must be an index of 32/);
  });
});
