import { expect, test } from "bun:test";
import { textLogprobs } from "../../src/server/logprobs.ts";

test("offsets are those of the answer, where tokens alone are other texts", () => {
  // As SentencePiece's: a space in front of a word is no text of the word alone. The third and the
  // fourth token are one character.
  const alone = new Map([
    [1, "hi"],
    [2, "you"],
    [3, "\ufffd"],
    [4, "\ufffd"],
    [5, "!"],
  ]);
  const decode = (tokens: ArrayLike<number>) => alone.get(tokens[0])!;
  const texts = ["hi", " you", "", "\u{1f600}", "!"];
  const tokens = texts.map((text, i) => {
    return { token: i + 1, text, logProb: { logProb: -1, top: [] } };
  });
  const whole = textLogprobs({ decode }, tokens, 0)!;
  expect(whole.tokens).toEqual([...alone.values()]);
  expect(whole.text_offset).toEqual([0, 2, 6, 6, 8]);
  const rest = textLogprobs({ decode }, tokens.slice(3), 6)!;
  expect([...whole.text_offset.slice(0, 3), ...rest.text_offset]).toEqual(whole.text_offset);
});
