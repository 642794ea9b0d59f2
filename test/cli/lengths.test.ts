import { expect, test } from "bun:test";
import { lengthsOf } from "../../src/cli/bench/lengths.ts";
import { OptionError } from "../../src/errors.ts";
import { Random } from "../../src/replay/random.ts";

/** Mean, least and most of many draws. */
function drawn(kind: "prompt" | "output", text: string) {
  const random = new Random(1);
  const lengths = lengthsOf("--prompt-tokens", kind, text);
  const all = Array.from({ length: 20_000 }, () => lengths.draw(random));
  const mean = all.reduce((sum, length) => sum + length, 0) / all.length;
  return { mean, least: Math.min(...all), most: Math.max(...all) };
}

test("a number, a range, and ShareGPT's means", () => {
  expect(drawn("prompt", "512")).toEqual({ mean: 512, least: 512, most: 512 });
  const range = drawn("prompt", "512-2048");
  expect([range.least, range.most]).toEqual([512, 2048]);
  expect(range.mean / 1280).toBeCloseTo(1, 1);
  // Its most cuts a little off the mean.
  expect(drawn("prompt", "sharegpt").mean / 227).toBeCloseTo(0.95, 1);
  expect(drawn("output", "sharegpt").mean / 188).toBeCloseTo(0.95, 1);
  expect(drawn("output", "sharegpt").most).toBe(1024);
});

test.each(["0", "-5", "9-3", "many", "1-", "12345678"])("%j is refused", (text) => {
  expect(() => lengthsOf("--prompt-tokens", "prompt", text)).toThrow(OptionError);
});
