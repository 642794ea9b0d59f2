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

/** The same in the older form of text completions, of one answer's tokens as they come. */
export function textLogprobs(tokenizer: Pick<Tokenizer, "decode">) {
  const textOf = (token: number) => tokenizer.decode([token], { keepSpecial: true });
  // As vLLM has it: a token begins where the texts of those before it, each alone, would end.
  let end = 0;
  return (tokens: readonly GeneratedToken[]) => {
    const said = tokens.flatMap(({ token, logProb }) => (logProb ? [{ token, ...logProb }] : []));
    if (said.length === 0) return null;
    const texts = said.map(({ token }) => textOf(token));
    return {
      tokens: texts,
      token_logprobs: said.map(({ logProb }) => logProb),
      top_logprobs: said.map(({ token, logProb, top }) => {
        const known = [...top, { token, logProb }];
        return Object.fromEntries(known.map((each) => [textOf(each.token), each.logProb]));
      }),
      text_offset: texts.map(({ length }) => (end += length) - length),
    };
  };
}
