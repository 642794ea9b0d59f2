import type { Cutter, CutTexts, TextsToCut } from "./cut-texts.ts";
import { Tokenizer, type TokenizerJson } from "./tokenizer.ts";

/** The worker of TokenizerThread: it gets a tokenizer, then texts. */
declare const self: Worker;

let tokenizer: Tokenizer;

self.onmessage = ({ data }: MessageEvent<Cutter | TextsToCut>) => {
  if ("json" in data) {
    tokenizer = new Tokenizer(JSON.parse(data.json) as TokenizerJson, data.config);
    return;
  }
  const { texts, addSpecial } = data;
  self.postMessage(texts.map((text) => tokenizer.encode(text, { addSpecial })) satisfies CutTexts);
};
