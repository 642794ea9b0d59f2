import { HttpError } from "./http-errors.ts";

/**
 * A request's body as JSON. Errors: HttpError 413 for more than `most` bytes, 400 for no JSON; the
 * signal's reason.
 */
export async function jsonBody(
  request: Request,
  most: number,
  signal: AbortSignal,
): Promise<unknown> {
  const text = await textOf(request, most, signal);
  try {
    return JSON.parse(text);
  } catch (error) {
    const message = `the body is no JSON (${(error as Error).message}). Fix: send a JSON object.`;
    throw new HttpError(400, "invalid_request_error", message);
  }
}

async function textOf(request: Request, most: number, signal: AbortSignal): Promise<string> {
  if (Number(request.headers.get("content-length") ?? 0) > most) throw tooLarge(most);
  const decoder = new TextDecoder();
  let text = "";
  let bytes = 0;
  for await (const chunk of request.body ?? []) {
    signal.throwIfAborted();
    bytes += chunk.length;
    if (bytes > most) throw tooLarge(most);
    text += decoder.decode(chunk, { stream: true });
  }
  return text + decoder.decode();
}

function tooLarge(most: number): HttpError {
  const message = `the body has more than ${most} bytes. Fix: send less.`;
  return new HttpError(413, "invalid_request_error", message);
}
