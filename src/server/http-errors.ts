import { FlashbunError, OptionError } from "../errors.ts";

/** A request that is answered with a status other than 200, in OpenAI's form. */
export class HttpError extends FlashbunError {
  /** @param param the field of the body that is wrong, if it is one */
  constructor(
    readonly status: number,
    readonly type: string,
    message: string,
    readonly param: string | null = null,
    readonly headers: Readonly<Record<string, string>> = {},
  ) {
    super("HTTP", message);
  }
}

/** The answer to a request that failed: its fault is below 500. */
export function errorResponse(error: unknown): Response {
  const { status, headers } = asHttpError(error);
  return Response.json(errorEvent(error), { status, headers });
}

/** The status of a request that failed. */
export function statusOf(error: unknown): number {
  return asHttpError(error).status;
}

/** What a stream says where it fails after it began. */
export function errorEvent(error: unknown): object {
  const { type, message, param } = asHttpError(error);
  return { error: { message, type, param, code: null } };
}

/** Names of the engine's options, where a body's are others. */
const bodyNames: Readonly<Record<string, string>> = {
  maxTokens: "max_tokens",
  templateVariables: "chat_template_kwargs",
  logitBias: "logit_bias",
  toolChoice: "tool_choice",
  json: "response_format",
};

/**
 * What the engine said of a body's fields, as the body's fault and in its names. `prompt` is what
 * the body calls the prompt that was looked at.
 */
export function bodyError(error: unknown, prompt = "prompt"): unknown {
  if (error instanceof FlashbunError && error.code === "TEMPLATE")
    return new HttpError(400, "invalid_request_error", error.message, "messages");
  if (!(error instanceof OptionError)) return error;
  const [first] = error.option.split(/[ .[]/);
  const name = first === "tokens" || first === "prompt" ? prompt : bodyNames[first];
  if (name === undefined) {
    // What nobody knows is said to be the body's, whose fields clients know without that.
    const param = error.option.replace(/^body\./, "");
    return new HttpError(400, "invalid_request_error", error.message, param);
  }
  const message = error.message
    .replace(first, name)
    .replace(new RegExp(`\\b(give|set|change) ${first}\\b`), `$1 ${name}`);
  return new HttpError(400, "invalid_request_error", message, name);
}

function asHttpError(error: unknown): HttpError {
  if (error instanceof HttpError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new HttpError(500, "server_error", message);
}
