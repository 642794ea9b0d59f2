import { randomUUID } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import type { Engine } from "../engine/engine.ts";
import type { GenerateOptions } from "../engine/request.ts";
import { checkOptions, flag, integer, type OptionSchemas, unchecked } from "../options.ts";
import type { ChatMessage } from "../text/chat-template.ts";
import { Answers } from "./answers.ts";
import { chatDefaults, textDefaults } from "./defaults.ts";
import {
  eachOf,
  generateOptionsOf,
  type GenerationFields,
  generationSchemas,
  orNull,
  type Texts,
  textsSchema,
} from "./fields.ts";
import { chatForm, type Form, type LogprobsTeller, textForm } from "./forms.ts";
import { requireInteger } from "../require.ts";
import { bodyError, errorEvent, HttpError, statusOf } from "./http-errors.ts";
import { asTexts } from "./messages.ts";
import type { Latencies } from "./latencies.ts";
import { eventStream } from "./sse.ts";
import { type AnswerFields, answerOptionsOf, answerSchemas } from "./tools.ts";
import type { Visit } from "./visits.ts";

/** A body of `/v1/chat/completions`. */
interface ChatBody extends GenerationFields, AnswerFields {
  messages: ChatMessage[];
  max_completion_tokens?: number | null;
  chat_template_kwargs?: Record<string, unknown> | null;
  logprobs?: boolean | null;
  top_logprobs?: number | null;
}

/** A body of `/v1/completions`. */
interface TextBody extends GenerationFields {
  prompt: Texts;
  best_of?: number | null;
  logprobs?: number | null;
}

const chatSchemas: OptionSchemas = {
  ...generationSchemas,
  ...answerSchemas,
  ...chatDefaults,
  messages: unchecked("a list of messages"),
  max_completion_tokens: generationSchemas["max_tokens"],
  chat_template_kwargs: unchecked("variables of the chat template"),
  logprobs: orNull(flag),
  top_logprobs: orNull(integer(0, 20)),
};

const textSchemas: OptionSchemas = {
  ...generationSchemas,
  ...textDefaults,
  prompt: textsSchema,
  best_of: orNull(integer(1)),
  logprobs: orNull(integer(0, 20)),
};

/** Who is asked, under which name, and by whom. */
export interface Asked {
  readonly engine: Engine;
  readonly model: string;
  /** The adapter of that name, where it is one. */
  readonly adapter: string | undefined;
  /** Most tokens of an answer. */
  readonly maxTokens: number;
  readonly visit: Visit;
  readonly latencies: Latencies;
}

/** Answers a body of `/v1/chat/completions`. Errors: HttpError. */
export async function chatCompletion(asked: Asked, body: unknown): Promise<Response> {
  const fields = checked<ChatBody>(body, chatSchemas, "messages");
  const { max_completion_tokens, chat_template_kwargs: templateVariables } = fields;
  const max_tokens = max_completion_tokens ?? fields.max_tokens ?? null;
  const { sampling, ...options } = generateOptionsOf({ ...fields, max_tokens });
  const messages = asTexts(fields.messages);
  if (fields.top_logprobs && fields.logprobs !== true) {
    const message = "top_logprobs needs logprobs. Fix: set logprobs to true.";
    throw new HttpError(400, "invalid_request_error", message, "top_logprobs");
  }
  const logprobs = fields.logprobs === true ? (fields.top_logprobs ?? 0) : -1;
  const answer = answerOptionsOf(fields);
  const given = { messages, ...answer, ...(templateVariables && { templateVariables }) };
  return await complete(asked, chatForm, fields, [given], {
    ...options,
    ...answer,
    sampling: { ...sampling, logprobs },
  });
}

/** Answers a body of `/v1/completions`. Errors: HttpError. */
export async function textCompletion(asked: Asked, body: unknown): Promise<Response> {
  const fields = checked<TextBody>(body, textSchemas, "prompt");
  const { n, best_of } = fields;
  if (best_of != null && best_of !== (n ?? 1)) {
    const message = "best_of must be n: all answers are given. Fix: leave it out, or set n to it.";
    throw new HttpError(400, "invalid_request_error", message, "best_of");
  }
  const given = eachOf(fields.prompt).map((prompt) =>
    typeof prompt === "string" ? { prompt } : { tokens: prompt },
  );
  const { sampling, ...options } = generateOptionsOf(fields);
  const own = { ...options, sampling: { ...sampling, logprobs: fields.logprobs ?? -1 } };
  return await complete(asked, textForm, fields, given, own, textTokens);
}

/** OpenAI's default of tokens for a text. */
const textTokens = 16;

function checked<T>(body: unknown, schemas: OptionSchemas, required: string): T {
  try {
    checkOptions("body", schemas, [required], body);
    return body as T;
  } catch (error) {
    throw bodyError(error);
  }
}

/** @param tokensAtFirst most tokens where the body does not say; absent: what there is room for */
async function complete(
  { engine, model, adapter, maxTokens: most, visit, latencies }: Asked,
  form: Form,
  fields: GenerationFields,
  given: readonly GenerateOptions[],
  options: GenerateOptions,
  tokensAtFirst = Infinity,
): Promise<Response> {
  const each = fields.n ?? 1;
  const count = given.length * each;
  visit.admit(count);
  const { signal } = visit;
  const prompts: GenerateOptions[] = [];
  try {
    for (const prompt of given) {
      // Each is cut into tokens by itself: others run between two.
      if (prompts.length > 0) await setImmediate();
      signal.throwIfAborted();
      const tokens = await engine.encode(prompt, signal);
      const maxTokens = Math.min(tokensAtFirst, most, engine.roomFor(tokens.length));
      requireInteger("maxTokens", options.maxTokens ?? maxTokens, 1, most);
      const through = adapter === undefined ? {} : { adapter };
      prompts.push({ maxTokens, ...options, ...through, tokens, signal });
    }
  } catch (error) {
    throw bodyError(error, given.length === 1 ? "prompt" : `prompt[${prompts.length}]`);
  }
  let answers: Answers;
  try {
    answers = new Answers(engine, prompts, each, latencies);
  } catch (error) {
    throw bodyError(error);
  }
  const created = Math.floor(Date.now() / 1000);
  const head = { id: `${form.idPrefix}${randomUUID()}`, created, model };
  const teller = () => form.logprobs(engine.tokenizer);
  if (fields.stream === true) {
    const withUsage = fields.stream_options?.include_usage === true;
    const response = await eventStream(
      events(answers, form, head, Array.from({ length: count }, teller), withUsage),
      errorEvent,
      (failure) => visit.end(failure === undefined ? 200 : statusOf(signal.reason ?? failure)),
    );
    visit.streams = true;
    return response;
  }
  const choices = (await answers.whole()).map((answer, index) =>
    form.choice(index, answer, teller()(answer.tokens)),
  );
  return Response.json({ ...head, object: form.objects[0], choices, usage: answers.usage });
}

async function* events(
  answers: Answers,
  form: Form,
  head: object,
  tellers: readonly LogprobsTeller[],
  withUsage: boolean,
): AsyncGenerator<object, void> {
  const chunk = { ...head, object: form.objects[1], ...(withUsage && { usage: null }) };
  const openings = tellers.map((_, index) => form.opening(index));
  for await (const piece of answers.pieces()) {
    for (const opening of openings.splice(0))
      if (opening !== undefined) yield { ...chunk, choices: [opening] };
    const { index, tokens } = piece;
    yield { ...chunk, choices: [form.piece(piece, tellers[index](tokens))] };
  }
  if (withUsage) yield { ...chunk, choices: [], usage: answers.usage };
}
