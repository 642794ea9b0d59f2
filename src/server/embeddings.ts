import type { Encoder } from "../engine/encoder.ts";
import { checkOptions, integer, type OptionSchemas } from "../options.ts";
import { requireInteger } from "../require.ts";
import { eachOf, orNull, type Texts, textsSchema } from "./fields.ts";
import { bodyError } from "./http-errors.ts";
import type { Visit } from "./visits.ts";

/** An encoder and the name that clients ask for. */
export interface EmbeddingModel {
  readonly model: string;
  readonly encoder: Encoder;
}

interface Body {
  input: Texts;
  dimensions?: number | null;
  encoding_format?: "float" | "base64" | null;
}

const text = { type: "string", description: "a text" };
const schemas: OptionSchemas = {
  model: orNull(text),
  input: textsSchema,
  dimensions: orNull(integer(1)),
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
    const { input, encoding_format: format, dimensions } = body as Body;
    const own = encoder.dimensions;
    requireInteger("dimensions", dimensions ?? own, own, own, `leave it out, or give ${own}`);
    visit.admit(1);
    const tokens = await encoder.encode(eachOf(input), "input", visit.signal);
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
