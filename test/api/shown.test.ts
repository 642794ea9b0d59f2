import { describe, expect, test } from "bun:test";
import { Device } from "../../src/device/device.ts";
import { userPages } from "../../src/kv/user-pages.ts";
import { dtypes } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { makeWorld, objectsOf } from "./world.ts";

const linesMost = 6;
const columnsMost = 400;

/** Every kind of object that flashbun gives to its users, by name. */
async function objects(): Promise<{ named: Record<string, unknown>; device: Device }> {
  const world = await makeWorld();
  const { device, batch, plan, variant, memory, index, tokens, step, q, lse } = world;
  const stale = step();
  const fresh = step();
  const empty = Int32Array.of(0);
  const pages = userPages({
    queryIndptr: empty,
    indptr: empty,
    indices: [],
    lastPageLength: [],
    pageSize: 4,
    pageCount: 4,
  });
  const match = index.match(tokens);
  const state = { out: q, lse, lseBase: "e" };
  const given = { batch, plan, variant, memory, stale, fresh, match, pages, state };
  const parts = { layout: batch.layout, level: batch.layout.levels[0], paged: fresh.layout };
  const named: Record<string, unknown> = { ...objectsOf(world), ...given, ...parts };
  named["failed step"] = world.pool.reserve([world.poolSequence], [10_000]);
  return { named, device };
}

function isShort(text: string): boolean {
  const lines = text.split("\n");
  return lines.length <= linesMost && lines.every((line) => line.length <= columnsMost);
}

describe("console.log shows a few lines, and JSON.stringify does not throw", () => {
  test.each(["alive", "gone"])("of objects that are %s", async (how) => {
    const { named, device } = await objects();
    if (how === "gone") device[Symbol.dispose]();
    const long = Object.entries(named).filter(([, object]) => !isShort(Bun.inspect(object)));
    expect(Object.fromEntries(long.map(([name, object]) => [name, Bun.inspect(object)]))).toEqual(
      {},
    );
    for (const object of Object.values(named)) {
      expect(Bun.inspect({ object })).not.toContain("[Function");
      expect(() => JSON.stringify(object)).not.toThrow();
    }
    expect(isShort(JSON.stringify(named["Tensor"]))).toBe(true);
  });
});

test("a tensor shows dtype, shape, device and its first values, whatever its strides", async () => {
  await using device = await Device.open("cpu", { threads: 1 });
  const shown = (tensor: Tensor) => Bun.inspect(tensor);
  const on = "on cpu device";
  const matrix = Tensor.from(device, [1, 2.5, -3, NaN, 1 / 3, 6], [2, 3], "f32");
  expect(shown(matrix)).toBe(`Tensor f32 [2, 3] ${on}: 1, 2.5, -3, NaN, 0.333333, 6`);
  expect(shown(matrix.permute(1, 0))).toBe(`Tensor f32 [3, 2] ${on}: 1, NaN, 2.5, 0.333333, -3, 6`);
  const numbers = Array.from({ length: 60 }, (_, i) => i);
  const large = Tensor.from(device, numbers, [5, 4, 3], "i32");
  expect(shown(large)).toBe(`Tensor i32 [5, 4, 3] ${on}: 0, 1, 2, 3, 4, 5, ...`);
  const wide = Tensor.from(device, numbers, [2, 30], "i64");
  expect(shown(wide)).toBe(`Tensor i64 [2, 30] ${on}: 0, 1, 2, 3, 4, 5, 6, 7, ...`);
  expect(shown(Tensor.zeros(device, [0, 3], "u8"))).toBe(`Tensor u8 [0, 3] ${on}`);
  expect(shown(Tensor.from(device, [7], [], "f16"))).toBe(`Tensor f16 [] ${on}: 7`);
  for (const dtype of dtypes) expect(shown(Tensor.zeros(device, [1], dtype))).toEndWith(": 0");
  expect(JSON.stringify({ tensor: matrix.select(0, 1) })).toBe(
    `{"tensor":"Tensor f32 [3] ${on}: NaN, 0.333333, 6"}`,
  );
  matrix[Symbol.dispose]();
  expect(shown(matrix)).toBe(`Tensor f32 [2, 3] ${on} (disposed)`);
});

test("a tensor is shown while a graph is captured, without its values", async () => {
  await using device = await Device.open("cpu", { threads: 1 });
  const tensor = Tensor.zeros(device, [2], "f32");
  let shown = "";
  device.capture(device.stream, () => void (shown = Bun.inspect(tensor)))[Symbol.dispose]();
  expect(shown).toBe("Tensor f32 [2] on cpu device");
});
