import type { Encoder } from "../engine/encoder.ts";
import { checkOptions, integer, list, type OptionSchemas } from "../options.ts";
import { orNull } from "./fields.ts";
import { bodyError } from "./http-errors.ts";
import type { Visit } from "./visits.ts";

/** An encoder and the name that clients ask for. */
export interface EmbeddingModel {
  readonly model: string;
  readonly encoder: Encoder;
}

interface Body {
  input: string | number[] | readonly (string | number[])[];
  encoding_format?: "float" | "base64" | null;
}

/** Inputs of one request. */
const inputsMost = 2048;
const text = { type: "string", description: "a text" };
const ids = { ...list(integer(0), "token ids"), minItems: 1 };
const schemas: OptionSchemas = {
  model: text,
  input: {
    anyOf: [
      text,
      ids,
      { ...list(text, "texts"), minItems: 1, maxItems: inputsMost },
      { ...list(ids, "lists of token ids"), minItems: 1, maxItems: inputsMost },
    ],
    description: `a text or token ids, or a list of 1 to ${inputsMost} of one kind`,
  },
  encoding_format: orNull({ enum: ["float", "base64"], description: "float or base64" }),
  user: orNull(text),
};

/** Answers a body of `/v1/embeddings`. Errors: HttpError. */
export async function embeddings(
  { model, encoder }: EmbeddingModel,
  visit: Visit,
  body: unknown,
): Promise<Response> {
  try {
    checkOptions("body", schemas, ["input"], body);
    const { input, encoding_format: format } = body as Body;
    const isOne = typeof input === "string" || typeof input[0] === "number";
    const inputs = (isOne ? [input] : input) as (string | number[])[];
    visit.admit(1);
    const tokens = await encoder.encode(inputs, "input", visit.signal);
    const vectors = await encoder.embed(tokens);
    const data = vectors.map((vector, index) => ({
      object: "embedding",
      index,
      embedding: format === "base64" ? base64(vector) : [...vector],
    }));
    const count = tokens.reduce((sum, { length }) => sum + length, 0);
    const usage = { prompt_tokens: count, total_tokens: count };
    return Response.json({ object: "list", data, model, usage });
  } catch (error) {
    throw bodyError(error);
  }
}

/** Its f32 bytes, little-endian, as OpenAI's clients ask for them. */
function base64(vector: Float32Array): string {
  return Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString("base64");
}
