import type { ChatMessage } from "../text/chat-template.ts";
import { HttpError } from "./http-errors.ts";

/**
 * Messages whose contents are texts, as chat templates take them: a list of text parts is one text.
 * Errors: HttpError for parts of other kinds, which no model here reads, and for what is no text;
 * who answers may have said none.
 */
export function asTexts(messages: readonly ChatMessage[]): readonly ChatMessage[] {
  if (!Array.isArray(messages)) return messages;
  return messages.map((message: ChatMessage, i) => {
    const content: unknown = message?.content;
    if (!Array.isArray(content)) {
      // What has no role is refused for that.
      const role: unknown = message?.role;
      const maySayNone = role === "assistant" || typeof role !== "string";
      if (typeof content === "string" || (content == null && maySayNone)) return message;
      const param = `messages[${i}].content`;
      const said = `${param} must be a text, or a list of text parts. Fix: give one.`;
      throw new HttpError(400, "invalid_request_error", said, param);
    }
    const parts = content as { type?: unknown; text?: unknown }[];
    const other = parts.findIndex((part) => part?.type !== "text" || typeof part.text !== "string");
    if (other < 0) return { ...message, content: parts.map(({ text }) => text).join("") };
    const kind = JSON.stringify(parts[other]?.type);
    const param = `messages[${i}].content[${other}]`;
    const message400 = `${param} is of type ${kind}, and only "text" is read. Fix: leave it out.`;
    throw new HttpError(400, "invalid_request_error", message400, param);
  });
}
