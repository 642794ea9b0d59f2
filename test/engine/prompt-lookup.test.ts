import { describe, expect, test } from "bun:test";
import { PromptLookup } from "../../src/engine/prompt-lookup.ts";
import { seeded } from "../support/random.ts";

describe("prompt lookup", () => {
  const limits = { draftTokensMost: 4, ngramMost: 3, ngramLeast: 1 };
  const draftOf = async (tokens: number[], over = {}) => {
    const lookup = new PromptLookup({ ...limits, ...over });
    const [{ tokens: drafted }] = await lookup.draft([
      { generation: undefined as never, tokens: Int32Array.from(tokens) },
    ]);
    return drafted;
  };
  const cases: [string, number[], object, number[]][] = [
    ["what followed", [1, 2, 3, 4, 5, 6, 1, 2], {}, [3, 4, 5, 6]],
    ["the longest end counts", [7, 1, 2, 8, 1, 2, 9, 9, 7, 1, 2], {}, [8, 1, 2, 9]],
    ["of equal ones the last", [1, 2, 8, 1, 2, 9, 3, 1, 2], { ngramMost: 2 }, [9, 3, 1, 2]],
    ["no longer than asked for", [7, 1, 2, 8, 1, 2, 9, 9, 7, 1, 2], { ngramMost: 2 }, [9, 9, 7, 1]],
    ["past the end it repeats itself", [5, 1, 2, 1, 2], {}, [1, 2, 1, 2]],
    ["one token again and again", [3, 3, 3, 3], {}, [3, 3, 3, 3]],
    ["at the very start", [4, 6, 7, 4], {}, [6, 7, 4, 6]],
    ["nothing stood there before", [1, 2, 3], {}, []],
    ["too short an end", [1, 2, 3, 4, 3], { ngramLeast: 2 }, []],
    ["a single token", [1], {}, []],
  ];
  test.each(cases)("%s", async (_, tokens, over, expected) => {
    expect(await draftOf(tokens, over)).toEqual(expected);
  });

  test("is that of a search from the end by definition", async () => {
    const random = seeded(3);
    for (let i = 0; i < 500; i++) {
      const length = random.integer(1, 30);
      const tokens = Array.from({ length }, () => random.integer(0, 3));
      const ngramLeast = random.integer(1, 3);
      let expected: number[] = [];
      for (let n = 3; n >= ngramLeast && expected.length === 0; n--)
        for (let at = length - n - 1; at >= 0 && expected.length === 0; at--) {
          const end = tokens.slice(length - n);
          if (end.some((token, j) => tokens[at + j] !== token)) continue;
          const on = [...tokens];
          while (on.length < length + 4) on.push(on[at + n + on.length - length]);
          expected = on.slice(length);
        }
      expect(await draftOf(tokens, { ngramLeast })).toEqual(expected);
    }
  });
});
