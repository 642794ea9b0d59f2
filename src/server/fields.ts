import type { GenerateOptions } from "../engine/request.ts";
import { samplingSchemas } from "../engine/sampling.ts";
import { flag, integer, list, object, type OptionSchema, type OptionSchemas } from "../options.ts";

/** Fields that chat and text completions share. */
export interface GenerationFields {
  model?: string | null;
  max_tokens?: number | null;
  temperature?: number | null;
  top_p?: number | null;
  top_k?: number | null;
  min_p?: number | null;
  seed?: number | null;
  presence_penalty?: number | null;
  frequency_penalty?: number | null;
  repetition_penalty?: number | null;
  logit_bias?: Record<string, number> | null;
  stop?: string | string[] | null;
  ignore_eos?: boolean | null;
  n?: number | null;
  stream?: boolean | null;
  stream_options?: { include_usage?: boolean | null } | null;
  user?: string | null;
}

/** Null stands for absent, as OpenAI's clients send it. */
export function orNull(schema: OptionSchema): OptionSchema {
  const { description } = schema;
  return { anyOf: [schema, { type: "null" }], description: `${description}, or null` };
}

/** One of these values, or null: all of those that ask for what is here. */
export function only(...values: readonly (string | boolean)[]): OptionSchema {
  const allowed = [...values.map((value) => JSON.stringify(value)), "null"];
  return { enum: [...values, null], description: allowed.join(" or ") };
}

const text: OptionSchema = { type: "string", description: "a text" };

/** Most texts of one request. */
const textsMost = 2048;
const ids = { ...list(integer(0), "token ids"), minItems: 1 };

/** A text or token ids, or several of one kind. */
export type Texts = string | number[] | readonly (string | number[])[];

/** What they may be. */
export const textsSchema: OptionSchema = {
  anyOf: [
    text,
    ids,
    { ...list(text, "texts"), minItems: 1, maxItems: textsMost },
    { ...list(ids, "lists of token ids"), minItems: 1, maxItems: textsMost },
  ],
  description: `a text or token ids, or a list of 1 to ${textsMost} of one kind`,
};

/** Each by itself. */
export function eachOf(texts: Texts): readonly (string | number[])[] {
  const isOne = typeof texts === "string" || typeof texts[0] === "number";
  return (isOne ? [texts] : texts) as readonly (string | number[])[];
}

const seedMost = Number.MAX_SAFE_INTEGER;
/** Most answers to one request. */
const answersMost = 128;

/** What each of them may be. */
export const generationSchemas: OptionSchemas = {
  model: orNull(text),
  max_tokens: orNull(integer(1)),
  temperature: orNull(samplingSchemas["temperature"]),
  top_p: orNull(samplingSchemas["topP"]),
  // vLLM's clients say -1 for all.
  top_k: orNull(integer(-1)),
  min_p: orNull(samplingSchemas["minP"]),
  seed: orNull(integer(-seedMost, seedMost)),
  presence_penalty: orNull(samplingSchemas["presencePenalty"]),
  frequency_penalty: orNull(samplingSchemas["frequencyPenalty"]),
  repetition_penalty: orNull(samplingSchemas["repetitionPenalty"]),
  logit_bias: orNull(samplingSchemas["logitBias"]),
  stop: {
    anyOf: [text, list(text, "a list of texts"), { type: "null" }],
    description: "a text, a list of texts, or null",
  },
  ignore_eos: orNull(flag),
  n: orNull(integer(1, answersMost)),
  stream: orNull(flag),
  stream_options: orNull(
    object(
      { include_usage: orNull(flag), include_obfuscation: only(false) },
      [],
      "{ include_usage }",
    ),
  ),
  user: orNull(text),
};

/** What they mean to the engine; those that are absent are left to it. */
export function generateOptionsOf(fields: GenerationFields): GenerateOptions {
  const { max_tokens, stop, ignore_eos } = fields;
  const sampling = given({
    temperature: fields.temperature,
    topP: fields.top_p,
    topK: fields.top_k === -1 ? 0 : fields.top_k,
    minP: fields.min_p,
    seed: fields.seed != null && fields.seed < 0 ? fields.seed + seedMost : fields.seed,
    presencePenalty: fields.presence_penalty,
    frequencyPenalty: fields.frequency_penalty,
    repetitionPenalty: fields.repetition_penalty,
    logitBias: fields.logit_bias,
  });
  return given({ sampling, maxTokens: max_tokens, stop, ignoreEnd: ignore_eos });
}

/** An object's properties that are neither undefined nor null. */
function given<T extends object>(options: T): { [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined && value !== null),
  ) as { [K in keyof T]?: NonNullable<T[K]> };
}
