/** How GPT-2 writes bytes as characters that can be seen. */
function byteCharacters(): string[] {
  const shown = (byte: number) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCodePoint(shown(byte) ? byte : next++),
  );
}

/** What a byte-level tokenizer is made of: bytes, a few merges, and two special tokens. */
export function byteVocabulary() {
  const bytes = byteCharacters();
  const merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "Ã Ł", "1 2", "½ s"];
  const tokens = [...bytes, ...merges.map((merge) => merge.replace(" ", "")), "<end>", "<user>"];
  const kinds = tokens.map((token) => (token === "<end>" || token === "<user>" ? 3 : 1));
  return { tokens, kinds, merges };
}
