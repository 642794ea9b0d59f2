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

/** The answer to a request that failed: its fault is 400, anything else 500. */
export function errorResponse(error: unknown): Response {
  const { status, type, message, param, headers } = asHttpError(error);
  return Response.json({ error: { message, type, param, code: null } }, { status, headers });
}

/** What a stream says where it fails after it began. */
export function errorEvent(error: unknown): object {
  const { type, message, param } = asHttpError(error);
  return { error: { message, type, param, code: null } };
}

function asHttpError(error: unknown): HttpError {
  if (error instanceof HttpError) return error;
  if (error instanceof OptionError)
    return new HttpError(400, "invalid_request_error", error.message, error.option);
  if (error instanceof FlashbunError && error.code === "TEMPLATE")
    return new HttpError(400, "invalid_request_error", error.message, "messages");
  const message = error instanceof Error ? error.message : String(error);
  return new HttpError(500, "server_error", message);
}
