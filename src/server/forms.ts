import { randomUUID } from "node:crypto";
import type { GeneratedToken } from "../engine/request.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { AnswerPiece, WholeAnswer } from "./answers.ts";
import { chatLogprobs, textLogprobs } from "./logprobs.ts";

/** What is told of the next tokens of one answer; null where nothing was asked for. */
export type LogprobsTeller = (tokens: readonly GeneratedToken[]) => object | null;

/** How one of the two kinds of completions is written. */
export interface Form {
  /** Of the whole answer, and of its pieces. */
  readonly objects: readonly [whole: string, piece: string];
  readonly idPrefix: string;
  /** Tells log-probabilities of one answer's tokens as they come. */
  logprobs(tokenizer: Tokenizer): LogprobsTeller;
  choice(index: number, answer: WholeAnswer, logprobs: object | null): object;
  piece(piece: AnswerPiece, logprobs: object | null): object;
  /** Events before an answer's first piece. */
  opening(index: number): object | undefined;
}

/** Of `/v1/chat/completions`. */
export const chatForm: Form = {
  objects: ["chat.completion", "chat.completion.chunk"],
  idPrefix: "chatcmpl-",
  logprobs: (tokenizer) => (tokens) => chatLogprobs(tokenizer, tokens),
  choice: (index, { text, calls, finishReason }, logprobs) => ({
    index,
    message: {
      role: "assistant",
      content: text === "" && calls.length > 0 ? null : text,
      ...(calls.length > 0 && { tool_calls: calls.map(wholeCall) }),
    },
    logprobs,
    finish_reason: finishReason,
  }),
  piece: ({ index, text, calls, finishReason }, logprobs) => ({
    index,
    delta: {
      ...(text !== "" && { content: text }),
      ...(calls.length > 0 && { tool_calls: calls.map(callPiece) }),
    },
    logprobs,
    finish_reason: finishReason,
  }),
  opening: (index) => ({
    index,
    delta: { role: "assistant", content: "" },
    logprobs: null,
    finish_reason: null,
  }),
};

function wholeCall(called: WholeAnswer["calls"][number]): object {
  return { id: `call_${randomUUID()}`, type: "function", function: called };
}

function callPiece({ index, name, arguments: piece }: AnswerPiece["calls"][number]): object {
  if (name === undefined) return { index, function: { arguments: piece } };
  return { index, ...wholeCall({ name, arguments: piece }) };
}

/** Of `/v1/completions`. */
export const textForm: Form = {
  objects: ["text_completion", "text_completion"],
  idPrefix: "cmpl-",
  logprobs: textLogprobs,
  choice: (index, { text, finishReason }, logprobs) => ({
    index,
    text,
    logprobs,
    finish_reason: finishReason,
  }),
  piece: ({ index, text, finishReason }, logprobs) => ({
    index,
    text,
    logprobs,
    finish_reason: finishReason,
  }),
  opening: () => undefined,
};
