import type { GeneratedToken } from "../engine/request.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

interface Entry {
  readonly token: string;
  readonly logprob: number;
  readonly bytes: readonly number[];
}

/** Log-probabilities of an answer's tokens in OpenAI's form; null where none were asked for. */
export function chatLogprobs(tokenizer: Tokenizer, tokens: readonly GeneratedToken[]) {
  const entry = (token: number, logprob: number): Entry => {
    const text = tokenizer.decode([token], { keepSpecial: true });
    // Of a part of a character the text says nothing.
    return { token: text, logprob, bytes: [...(tokenizer.bytesOf(token) ?? [])] };
  };
  const content = tokens.flatMap(({ token, logProb }) => {
    if (logProb === undefined) return [];
    const top_logprobs = logProb.top.map((each) => entry(each.token, each.logProb));
    return [{ ...entry(token, logProb.logProb), top_logprobs }];
  });
  return content.length === 0 ? null : { content, refusal: null };
}

/**
 * The same in the older form of text completions.
 * @param begin characters of the answer before the first of them
 */
export function textLogprobs(
  tokenizer: Pick<Tokenizer, "decode">,
  tokens: readonly GeneratedToken[],
  begin: number,
) {
  const said = tokens.flatMap(({ token, text, logProb }) =>
    logProb ? [{ token, text, ...logProb }] : [],
  );
  if (said.length === 0) return null;
  const textOf = (token: number) => tokenizer.decode([token], { keepSpecial: true });
  let end = begin;
  return {
    tokens: said.map(({ token }) => textOf(token)),
    token_logprobs: said.map(({ logProb }) => logProb),
    top_logprobs: said.map(({ token, logProb, top }) => {
      const known = [...top, { token, logProb }];
      return Object.fromEntries(known.map((each) => [textOf(each.token), each.logProb]));
    }),
    // A token alone is another text than it is in its answer.
    text_offset: said.map(({ text }) => (end += text.length) - text.length),
  };
}
