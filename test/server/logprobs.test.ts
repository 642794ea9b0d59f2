import { expect, test } from "bun:test";
import { textLogprobs } from "../../src/server/logprobs.ts";

test("offsets of a text's tokens are the same whole and in pieces", () => {
  // As SentencePiece's: no word alone has the space in front of it, and two tokens are a character.
  const alone = ["hi", "you", "\ufffd", "\ufffd", "!"];
  const texts = ["hi", " you", "", "\u{1f600}", "!"];
  const decode = (tokens: ArrayLike<number>) => alone[tokens[0]];
  const tokens = texts.map((text, token) => {
    return { token, text, logProb: { logProb: -1, top: [] } };
  });
  const whole = textLogprobs({ decode })(tokens)!;
  expect(whole.tokens).toEqual(alone);
  expect(whole.text_offset).toEqual([0, 2, 5, 6, 7]);
  const tell = textLogprobs({ decode });
  const pieces = tokens.map((token) => tell([token])!);
  expect(pieces.flatMap(({ text_offset }) => text_offset)).toEqual(whole.text_offset);
});
