import type { GeneratedToken } from "../engine/request.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

interface Entry {
  readonly token: string;
  readonly logprob: number;
  readonly bytes: readonly number[];
}

/** Log-probabilities of tokens in OpenAI's form; null where none were asked for. */
export function logprobsOf(tokenizer: Tokenizer, tokens: readonly GeneratedToken[]) {
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
