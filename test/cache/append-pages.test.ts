import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { appendPages, type AppendPagesOptions } from "../../src/cache/append-pages.ts";
import type { Device } from "../../src/device/device.ts";
import { DisposedError, OptionError } from "../../src/errors.ts";
import { type DType, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { indptrOf, normals, poisoned } from "../support/numbers.ts";
import { forSeeds, type Random } from "../support/random.ts";
import { deviceTargets } from "../support/targets.ts";

/** Page, offset and request of a token; undefined: it is left out. */
type Place = { page: number; within: number; request: number } | undefined;

/** Requests with pages of their own, and tokens at places of theirs, each once. */
function randomPlaces(random: Random, pageSize: number, pageCount: number) {
  const free = Array.from({ length: pageCount }, (_, page) => page);
  const requests = random.integer(1, 4);
  const rows = Array.from({ length: requests }, () =>
    Array.from({ length: random.integer(0, 3) }, () =>
      free.splice(random.integer(0, free.length - 1), 1),
    ).flat(),
  );
  const all = rows.flatMap((pages, request) =>
    Array.from({ length: pages.length * pageSize }, (_, position) => ({ request, position })),
  );
  const tokens: { request: number; position: number }[] = [];
  while (all.length > 0 && tokens.length < 40)
    tokens.push(...all.splice(random.integer(0, all.length - 1), 1));
  for (let i = random.integer(0, 2); i >= 0; i--) tokens.push({ request: -1, position: 0 });
  const places = tokens.map(({ request, position }): Place =>
    request < 0
      ? undefined
      : {
          page: rows[request][Math.floor(position / pageSize)],
          within: position % pageSize,
          request,
        },
  );
  return { rows, tokens, places };
}

/** The rows as a table, -1 past their ends. */
function denseTable(rows: readonly number[][]) {
  const columns = Math.max(1, ...rows.map(({ length }) => length));
  const dense = rows.flatMap((pages) =>
    Array.from({ length: columns }, (_, column) => pages[column] ?? -1),
  );
  return { dense, columns };
}

describe.each(await deviceTargets())("pages that the caller manages on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
  });
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  const upload = (random: Random, values: number[], shape = [values.length]) =>
    Tensor.from(device, values, shape, random.pick(["i32", "i64"] as const));

  /** One random append beside a naive one. */
  function appendBoth(random: Random): void {
    const pageSize = random.pick([1, 2, 5, 16]);
    const pageCount = 14;
    const { rows, tokens, places } = randomPlaces(random, pageSize, pageCount);
    const layout = random.pick(["NHD", "HND"] as const);
    const owned: Tensor[] = [];
    const checks: (() => void)[] = [];
    const isBySlot = random.chance(0.4);
    const planes = Array.from({ length: random.integer(1, 4) }, () => {
      const [heads, dim] = [random.pick([1, 2, 3]), random.pick([1, 8, 24, 64])];
      const dtype = random.pick<DType>(["bf16", "f32", "f8e4m3", "f16"]);
      const from = random.pick<DType>([dtype === "f8e4m3" ? "bf16" : dtype, "f32"]);
      const [first, second] = layout === "HND" ? [heads, pageSize] : [pageSize, heads];
      const isFlat = heads === 1 && layout === "NHD" && random.chance(0.5);
      const shape = isFlat ? [pageCount, pageSize, dim + 8] : [pageCount, first, second, dim + 8];
      const whole = poisoned(device, shape, dtype);
      const last = shape.length - 1;
      const pages = whole.slice(last, 8, dim + 8);
      const values = normals(random, tokens.length * heads * dim, from);
      const rowShape = isFlat ? [tokens.length, dim] : [tokens.length, heads, dim];
      const source = Tensor.from(device, values, rowShape, from);
      const kinds = isBySlot ? ["none", "number", "head"] : ["none", "number", "head", "request"];
      const kind = dtype === "f8e4m3" ? random.pick(kinds) : "none";
      const size = kind === "head" ? heads : kind === "request" ? rows.length * heads : 1;
      const scales = Float32Array.from({ length: size }, () => 0.25 * random.integer(1, 8));
      const scaleShape = kind === "request" ? [rows.length, heads] : [size];
      const scale =
        kind === "none"
          ? random.pick([undefined, null])
          : kind === "number"
            ? scales[0]
            : Tensor.from(device, scales, scaleShape, "f32");
      owned.push(whole, source);
      if (scale instanceof Tensor) owned.push(scale);
      checks.push(() => {
        const model = new Float64Array(whole.elements).fill(NaN);
        for (const [token, place] of places.entries())
          for (let head = 0; place !== undefined && head < heads; head++)
            for (let d = 0; d < dim; d++) {
              const by = kind === "head" ? head : place.request * heads + head;
              const factor = kind === "none" ? 1 : scales[size === 1 ? 0 : by];
              const inner =
                layout === "HND" ? head * pageSize + place.within : place.within * heads + head;
              const at = (place.page * pageSize * heads + inner) * (dim + 8) + 8 + d;
              model[at] = values[(token * heads + head) * dim + d] / factor;
            }
        const expected = roundTo(dtype, model);
        const wrong = whole.toFloat64Array().findIndex((x, i) => !Object.is(x, expected[i]));
        if (wrong >= 0) throw new Error(`element ${wrong} is not ${expected[wrong]}`);
      });
      return { pages, rows: source, scale };
    });
    const slots = places.map((place) => (place ? place.page * pageSize + place.within : -1));
    const isRagged = random.chance(0.5);
    const { dense, columns } = denseTable(rows);
    const byTable = () => ({
      requests: upload(
        random,
        tokens.map(({ request }) => request),
      ),
      positions: upload(
        random,
        tokens.map(({ position }) => position),
      ),
      ...(isRagged
        ? {
            // Longer than what indptr uses.
            pageTable: upload(random, [...rows.flat(), -7]),
            indptr: upload(random, indptrOf(rows.map(({ length }) => length))),
          }
        : { pageTable: upload(random, dense, [rows.length, columns]) }),
    });
    const where = isBySlot ? { slotMapping: upload(random, slots) } : byTable();
    owned.push(...Object.values(where));
    appendPages({ planes, layout, ...where });
    for (const check of checks) check();
    for (const tensor of owned) tensor[Symbol.dispose]();
  }

  test("random appends", () => {
    forSeeds(target.kind === "cpu" ? 300 : 60, appendBoth);
  });

  const planesOf = (dims = [4, 2, 1, 8], tokens = 3) => [
    {
      rows: Tensor.from(device, new Float64Array(tokens * 8).fill(1), [tokens, 1, 8], "f16"),
      pages: Tensor.zeros(device, dims, "f16"),
    },
  ];
  const ints = (values: number[], shape = [values.length]) =>
    Tensor.from(device, values, shape, "i32");
  const tokensOf = () => ({ requests: ints([0, 1, -1]), positions: ints([1, 0, 0]) });

  test("what names no page is refused with the entry, or left out by a GPU", () => {
    const table = tokensOf();
    const wrong: [Partial<AppendPagesOptions>, string][] = [
      [{ slotMapping: ints([0, 8, 1]) }, "slotMapping[1]"],
      [{ slotMapping: ints([0, 1, -2]) }, "slotMapping[2]"],
      [{ slotMapping: Tensor.from(device, [0, 2 ** 33, 1], [3], "i64") }, "slotMapping[1]"],
      [{ ...table, pageTable: ints([3, -1, 4, -1], [2, 2]) }, "pageTable[1, 0]"],
      [{ ...table, pageTable: ints([3], [1, 1]) }, "requests[1]"],
      [{ ...table, positions: ints([2, 0, 0]), pageTable: ints([3, 1], [2, 1]) }, "positions[0]"],
      [{ ...table, pageTable: ints([3, 1]), indptr: ints([0, 1, 5]) }, "indptr[2]"],
    ];
    for (const [where, option] of wrong) {
      const planes = planesOf();
      const append = () => appendPages({ planes, ...where });
      if (device.checksContents) {
        expect(append).toThrow(OptionError);
        expect(append).toThrow(new RegExp(`^${RegExp.escape(option)} must be`));
        expect(planes[0].pages.toFloat64Array().every((x) => x === 0)).toBe(true);
      } else append();
      // Nothing beyond the pages was touched, and the device lives.
      const written = planes[0].pages.toFloat64Array().filter((x) => x !== 0).length;
      expect(written).toBeLessThanOrEqual(2 * 8);
    }
  });

  test("other tensors are refused", () => {
    const planes = planesOf();
    const [{ rows, pages }] = planes;
    const slotMapping = ints([0, 1, 2]);
    const table = tokensOf();
    const other = (change: object) => [{ ...planes[0], ...change }];
    const wrong: [object, RegExp][] = [
      [{ planes: [], slotMapping }, /^planes must be a list of 1 to 4 planes/],
      [{ planes }, /^slotMapping must be slotMapping alone, or/],
      [{ planes, slotMapping, indptr: slotMapping }, /^slotMapping must be slotMapping alone/],
      [{ planes, ...table }, /^slotMapping must be/],
      [{ planes, ...table, pageTable: ints([1, 2, 3]) }, /^pageTable must be \[requests, columns/],
      [{ planes, slotMapping: rows }, /^slotMapping must be a dense i32 or an i64/],
      [
        { planes, slotMapping: ints([0, 1, 2, 3]) },
        /^planes\[0\].rows must be a tensor \[4 or more/,
      ],
      [{ planes: other({ rows: pages }), slotMapping }, /^planes\[0\].pages must be memory apart/],
      [{ planes: other({ scale: "1" }), slotMapping }, /^planes\[0\].scale must be/],
      [
        { planes: other({ scale: Tensor.zeros(device, [2, 1], "f32") }), slotMapping },
        /^planes\[0\].scale must be scales by tensor, head or token/,
      ],
      [{ planes, slotMapping, layout: "DNH" }, /^layout must be "NHD" or "HND"/],
      [
        { planes: [...planes, ...planesOf([4, 3, 1, 8])], slotMapping },
        /^planes\[1\].pages must be pages of 2 tokens/,
      ],
      [
        { planes: planesOf([4, 2, 2, 8]), slotMapping },
        /^planes\[0\].pages must be of a known order/,
      ],
    ];
    for (const [options, message] of wrong) {
      const append = () => appendPages(options as AppendPagesOptions);
      expect(append).toThrow(OptionError);
      expect(append).toThrow(message);
    }
    expect(pages.toFloat64Array().every((x) => x === 0)).toBe(true);
  });

  test("a captured append reads what its tensors hold at each replay", () => {
    const planes = planesOf();
    const slotMapping = ints([0, 1, 2]);
    const rows = planes[0].rows;
    appendPages({ planes, slotMapping });
    using graph = device.capture(device.stream, () => appendPages({ planes, slotMapping }));
    slotMapping.copyFrom(ints([7, -1, 4]));
    rows.copyFrom(Tensor.from(device, new Float64Array(24).fill(2), [3, 1, 8], "f16"));
    graph.replay(device.stream);
    const first = planes[0].pages.select(3, 0).to("f32").toFloat64Array();
    expect([...first]).toEqual([1, 1, 1, 0, 2, 0, 0, 2]);
    slotMapping.copyFrom(ints([8, -1, 4]));
    if (device.checksContents)
      expect(() => graph.replay(device.stream)).toThrow(/^slotMapping\[0\]/);
  });

  test("a captured append keeps scales that were numbers, and needs those that are tensors", async () => {
    const pages = Tensor.zeros(device, [1, 1, 1, 8], "f8e4m3");
    const rows = Tensor.from(device, new Float64Array(8).fill(8), [1, 1, 8], "f16");
    const slotMapping = ints([0]);
    const append = (scale: Tensor | number) =>
      appendPages({ planes: [{ rows, pages, scale }], slotMapping });
    const capture = (scale: Tensor | number) => device.capture(device.stream, () => append(scale));
    append(2);
    using byNumber = capture(2);
    const scale = Tensor.from(device, [2], [1], "f32");
    using byTensor = capture(scale);
    for (let i = 0; i < 300; i++) append(3 + i / 8);
    Bun.gc(true);
    await Bun.sleep(0);
    // Whoever gets the memory of a scale writes another number over it.
    const others = Array.from({ length: 300 }, () => Tensor.from(device, [64], [1], "f32"));
    byNumber.replay(device.stream);
    expect(pages.toFloat64Array()[0]).toBe(4);
    for (const other of others) other[Symbol.dispose]();
    byTensor.replay(device.stream);
    scale[Symbol.dispose]();
    expect(() => byTensor.replay(device.stream)).toThrow(DisposedError);
  });

  test("a capture of another stream narrows 64-bit indices at each replay", () => {
    const other = device.createStream("other");
    const planes = planesOf();
    const slotMapping = Tensor.from(device, [0, -1, -1], [3], "i64");
    const keyPositions = Tensor.zeros(device, [4, 2], "i32");
    const newPositions = Tensor.from(device, [9, 9, 9], [3], "i64");
    device.stream.wait();
    const body = () =>
      appendPages({ planes, slotMapping, keyPositions, newPositions, stream: other });
    using graph = device.capture(other, body);
    for (const slot of [5, 2]) {
      slotMapping.set([slot, -1, -1]);
      newPositions.set([slot + 10, 9, 9]);
      device.stream.wait();
      graph.replay(other);
      other.wait();
    }
    const written = planes[0].pages.select(3, 0).to("f32").toFloat64Array();
    expect([...written]).toEqual([0, 0, 1, 0, 0, 1, 0, 0]);
    expect([...keyPositions.toFloat64Array()]).toEqual([0, 0, 12, 0, 0, 15, 0, 0]);
    for (const [slot, message] of [
      [8, /^slotMapping\[1\] must be/],
      [2 ** 33, /^slotMapping\[1\] must be an index of 32 bits/],
    ] as const) {
      slotMapping.set([0, slot, -1]);
      if (device.checksContents) expect(() => graph.replay(other)).toThrow(message);
    }
  });
});
