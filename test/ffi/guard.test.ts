import { afterAll, expect, test } from "bun:test";
import { OptionError } from "../../src/errors.ts";
import { guarded } from "../../src/ffi/guard.ts";
import {
  type Argument,
  functions,
  type Kind,
  partsOf,
  type StreamHandle,
} from "../../src/ffi/symbols.ts";
import { sourcesOf } from "../support/sources.ts";

/** Values that cross, and values that must not. */
const handles = { right: [1, 2 ** 47], wrong: [0, -1, NaN, undefined, null] };
const memory = {
  right: [new Uint8Array(1), new Float64Array(3)],
  wrong: [undefined, NaN, -1, 4096],
};
const values: Record<Kind, { right: unknown[]; wrong: unknown[] }> = {
  device: handles,
  stream: handles,
  event: handles,
  graph: handles,
  module: handles,
  kernel: handles,
  comm: handles,
  address: {
    right: [1, 2 ** 53 - 1],
    wrong: [0, -1, 0.5, NaN, Infinity, 2 ** 53, undefined, null, "64", 64n],
  },
  u64: {
    right: [0, 1, 2 ** 53 - 1],
    wrong: [-1, 0.5, NaN, Infinity, 2 ** 53, undefined, null, "64", 64n],
  },
  i32: {
    right: [0, -1, 2 ** 31 - 1, -(2 ** 31)],
    wrong: [2 ** 31, -(2 ** 31) - 1, 0.5, NaN, Infinity, undefined, null, "1", true, 1n],
  },
  view: { right: memory.right, wrong: [...memory.wrong, null, new Uint8Array(0)] },
  "view?": { right: [...memory.right, null], wrong: [...memory.wrong, new Uint8Array(0)] },
};

const calls: { name: string; given: unknown[] }[] = [];
const recorders = Object.keys(functions).map((name) => {
  return [name, (...given: unknown[]) => calls.push({ name, given })] as const;
});
const checked = guarded(Object.fromEntries(recorders)) as Record<
  string,
  (...given: unknown[]) => number
>;
afterAll(() => void calls.splice(0));

test.each(Object.entries<readonly Argument[]>(functions))(
  "%s takes what its signature says and nothing else",
  (name, written) => {
    const list = written.map(partsOf);
    const good = list.map(({ kind }) => values[kind].right[0]);
    for (const [i, { kind, name: argument }] of list.entries()) {
      for (const value of values[kind].right) {
        calls.length = 0;
        checked[name](...good.with(i, value));
        expect(calls).toEqual([{ name, given: good.with(i, value) }]);
      }
      calls.length = 0;
      for (const value of values[kind].wrong) {
        const call = () => checked[name](...good.with(i, value));
        expect(call).toThrow(OptionError);
        expect(call).toThrow(`${argument} of ${name} must be`);
      }
      expect(calls).toEqual([]);
    }
  },
);

test("no cast hides what crosses the border", () => {
  const cast = /\bas (never|unknown as never)\b(?! [a-z])/;
  const found = sourcesOf("{src,bench}/**/*.ts").flatMap(({ path, lines }) =>
    lines.filter((line) => cast.test(line)).map((line) => `${path}: ${line.trim()}`),
  );
  expect(found).toEqual([]);
});

test("the types know a stream from a device", () => {
  const stream = 1 as StreamHandle;
  // @ts-expect-error a stream is no device
  const wrong = () => guarded({}).fb_device_close(stream);
  expect(wrong).toThrow(TypeError);
});
