import type { TokenizerJson } from "./tokenizer-json.ts";

/** Stands for a space in pieces of SentencePiece. */
const lowLine = "\u2581";
const utf8 = new TextEncoder();

/**
 * The bytes that each token adds to a text, by id; undefined where an id has no token. How a
 * vocabulary writes bytes is as its decoder reads them: GPT-2's letters for bytes, or
 * SentencePiece's lines for spaces and `<0x0A>` for bytes.
 */
export function tokenBytes(json: TokenizerJson): (Uint8Array | undefined)[] {
  const { vocab } = json.model;
  const pieces: [piece: string, id: number][] = Array.isArray(vocab)
    ? (vocab as [string, number][]).map(([piece], id) => [piece, id])
    : Object.entries(vocab as Record<string, number>);
  const decoders = decodersOf(json["decoder"]);
  const bytesOf = decoders.includes("ByteLevel") ? fromLetters : fromPiece;
  const bytes: (Uint8Array | undefined)[] = [];
  for (const [piece, id] of pieces) bytes[id] = bytesOf(piece);
  for (const { id, content } of json.added_tokens ?? []) bytes[id] = utf8.encode(content);
  return Array.from(bytes);
}

/** Types of a decoder, and of those that it is a row of. */
function decodersOf(decoder: unknown): string[] {
  const { type, decoders } = (decoder ?? {}) as { type?: string; decoders?: unknown[] };
  return [...(type === undefined ? [] : [type]), ...(decoders ?? []).flatMap(decodersOf)];
}

/** GPT-2 writes bytes that are no letters as those from U+0100 on, in their order. */
const byteOfLetter = new Map<string, number>();
for (let byte = 0, next = 256; byte < 256; byte++) {
  const isShown = (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173);
  byteOfLetter.set(String.fromCodePoint(isShown ? byte : next++), byte);
}

/** The bytes that GPT-2's letters stand for; of a text with others, its own. */
export function fromLetters(piece: string): Uint8Array {
  const bytes = [...piece].map((letter) => byteOfLetter.get(letter));
  // Who adds tokens as text writes them as they are.
  return bytes.includes(undefined) ? utf8.encode(piece) : Uint8Array.from(bytes as number[]);
}

function fromPiece(piece: string): Uint8Array {
  const byte = /^<0x([0-9A-F]{2})>$/.exec(piece);
  return byte === null
    ? utf8.encode(piece.replaceAll(lowLine, " "))
    : Uint8Array.of(Number.parseInt(byte[1], 16));
}
