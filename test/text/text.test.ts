import { Tokenizer as Library } from "@huggingface/tokenizers";
import { describe, expect, test } from "bun:test";
import { chatLogprobs } from "../../src/server/logprobs.ts";
import { ChatTemplate } from "../../src/text/chat-template.ts";
import { tokenizerJsonOf } from "../../src/text/gguf-tokenizer.ts";
import { StopStrings } from "../../src/text/stop-strings.ts";
import { TextStream } from "../../src/text/text-stream.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { sweep } from "../support/deep.ts";
import { type Random, seeded } from "../support/random.ts";
import { byteVocabulary } from "../support/vocabulary.ts";

const vocabulary = { model: "gpt2", pre: "smollm", ...byteVocabulary(), bos: undefined };
const { tokens } = vocabulary;
const tokenizer = new Tokenizer(tokenizerJsonOf(vocabulary)!);
const idOf = (token: string) => tokens.indexOf(token);

/** Texts with characters of one to four bytes, joined ones, digits of all kinds and spaces. */
function randomText(random: Random): string {
  const pieces = [
    "hello",
    " w",
    "ß",
    "½",
    "②",
    "12",
    "𝟘",
    "你好",
    "👩‍👩‍👧",
    "\u{10ffff}",
    "  ",
    "\n",
    "'s",
    "\0",
  ];
  return Array.from({ length: random.integer(0, 12) }, () => random.pick(pieces)).join("");
}

describe("tokenizer", () => {
  test("pairs merge in their order, inside a word", () => {
    expect([...tokenizer.encode("hello w")]).toEqual([idOf("hello"), idOf("Ġw")]);
    expect([...tokenizer.encode("helo")]).toEqual(["he", "l", "o"].map(idOf));
  });

  test("a numeric character of any kind stands alone", () => {
    // "12" is a token that the cut before each digit keeps from coming up.
    expect([...tokenizer.encode("12")]).toEqual(["1", "2"].map(idOf));
    // So is "½s", of the last byte of ½ and the letter.
    const [, byte, letter] = tokenizer.encode("½s");
    expect([byte, letter]).toEqual(["½", "s"].map(idOf));
  });

  test("special tokens that a text spells are theirs, and stand for no text", () => {
    const ids = [...tokenizer.encode("<user>he<end>")];
    expect(ids).toEqual(["<user>", "he", "<end>"].map(idOf));
    expect(tokenizer.decode(ids)).toBe("he");
    expect(tokenizer.decode(ids, { keepSpecial: true })).toBe("<user>he<end>");
    expect(tokenizer.isSpecial(idOf("<end>"))).toBe(true);
    expect(tokenizer.idOf("<end>")).toBe(idOf("<end>"));
    expect(tokenizer.vocabularySize).toBe(tokens.length);
  });

  test("a file that wants it begins each text with a token", () => {
    const begins = new Tokenizer(tokenizerJsonOf({ ...vocabulary, bos: idOf("<user>") })!);
    expect([...begins.encode("he", { addSpecial: true })]).toEqual(["<user>", "he"].map(idOf));
    expect([...begins.encode("he")]).toEqual([idOf("he")]);
  });

  test("SentencePiece merges what has the higher score, and spells out the rest in bytes", () => {
    const bytes = Array.from({ length: 256 }, (_, byte) => {
      return `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
    });
    const low = "\u2581";
    const words = [low, "a", "b", "c", "ab", "bc", `${low}a`, "abc", "<end>"];
    const pieces = ["<unk>", "<s>", ...bytes, ...words];
    const rank: Record<string, number> = { bc: -1, ab: -2, abc: -3, [`${low}a`]: -4 };
    const spm = (spacePrefix: boolean) =>
      new Tokenizer(
        tokenizerJsonOf({
          model: "llama",
          pre: "default",
          tokens: pieces,
          kinds: pieces.map((piece, id) => (id === 0 ? 2 : /^<(s|end)>$/.test(piece) ? 3 : 1)),
          merges: [],
          scores: pieces.map((piece) => rank[piece] ?? 0),
          spacePrefix,
          bos: 1,
        })!,
      );
    const wordsOf = (text: string, prefix = true) =>
      [...spm(prefix).encode(text)].map((id) => pieces[id]);
    // "ab" would leave "c" alone: "bc" comes first, then all three.
    expect(wordsOf("abc")).toEqual([low, "abc"]);
    expect(wordsOf("ab a")).toEqual([low, "ab", `${low}a`]);
    expect(wordsOf("é", false)).toEqual(["<0xC3>", "<0xA9>"]);
    expect(wordsOf("b<end>", false)).toEqual(["b", "<end>"]);
    const tokenizer = spm(true);
    expect([...tokenizer.encode("a", { addSpecial: true })][0]).toBe(1);
    for (const text of ["abc é a", "  b", "日本"])
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    expect([...tokenizer.bytesOf(pieces.indexOf("<0xC3>"))!]).toEqual([0xc3]);
    expect([...tokenizer.bytesOf(pieces.indexOf(`${low}a`))!]).toEqual([0x20, 0x61]);
  });

  test("a token that is a part of a character says which bytes", () => {
    const ids = [...tokenizer.encode("ß½")];
    const entries = ids.map((token) => ({ token, text: "", logProb: { logProb: 0, top: [] } }));
    const told = chatLogprobs(tokenizer, entries)!.content;
    expect(told.flatMap(({ bytes }) => [...bytes])).toEqual([...new TextEncoder().encode("ß½")]);
    expect(told.length).toBeGreaterThan(2);
  });

  test("bytes join as the library joins them, whole characters or not", () => {
    const library = new Library(tokenizerJsonOf(vocabulary)!, {});
    const random = seeded(3);
    for (let i = 0; i < 300; i++) {
      const ids = Array.from({ length: random.integer(1, 12) }, () =>
        random.integer(0, tokens.length - 1),
      );
      const keepSpecial = i % 2 === 0;
      const how = { skip_special_tokens: !keepSpecial, clean_up_tokenization_spaces: false };
      expect(tokenizer.decode(ids, { keepSpecial })).toBe(library.decode(ids, how));
    }
  });

  test("other ways to cut texts are not guessed", () => {
    expect(tokenizerJsonOf({ ...vocabulary, pre: "new" })).toBeUndefined();
    expect(tokenizerJsonOf({ ...vocabulary, model: "unknown" })).toBeUndefined();
  });

  test("odd arguments are refused", () => {
    expect(() => tokenizer.encode(1 as never)).toThrow(/text must be a string/);
    expect(() => tokenizer.decode([-1])).toThrow(/ids\[0\] must be/);
    // A padded vocabulary has ids that stand for nothing.
    expect(tokenizer.decode([tokens.length + 3, idOf("he")])).toBe("he");
    expect(tokenizer.longestToken).toBe("<user>".length);
  });
});

sweep(
  "texts come back whole, and in pieces",
  { slice: 200, whole: 20_000 },
  async (seed, cases) => {
    const random = seeded(seed);
    for (let i = 0; i < cases; i++) {
      const text = randomText(random);
      const ids = [...tokenizer.encode(text)];
      expect(tokenizer.decode(ids)).toBe(text);
      const stream = new TextStream(tokenizer);
      const pieces = ids.map((id) => stream.push(id));
      expect(pieces.join("") + stream.end()).toBe(text);
      // A piece is whole characters.
      for (const piece of pieces)
        expect(piece.isWellFormed() && !piece.includes("\ufffd")).toBe(true);
    }
  },
);

sweep("tokens of any bytes read as together", { slice: 400, whole: 20_000 }, async (seed, n) => {
  const random = seeded(seed);
  const parts = [...tokenizer.encode("你é")];
  for (let i = 0; i < n; i++) {
    const ids = Array.from({ length: random.integer(1, 12) }, () =>
      random.chance(0.5) ? random.pick(parts) : random.integer(0, tokenizer.vocabularySize - 1),
    );
    const stream = new TextStream(tokenizer);
    const told = ids.map((id) => stream.push(id)).join("") + stream.end();
    expect(told, `SEED=${seed + i}`).toBe(tokenizer.decode(ids));
  }
});

test("bytes that never become a character are told before they are many", () => {
  const stream = new TextStream(tokenizer);
  const [first] = tokenizer.encode("你");
  let told = "";
  for (let i = 0; i < 2000; i++) told += stream.push(first);
  expect(told.length).toBeGreaterThan(1900);
  expect(told + stream.end()).toBe("\ufffd".repeat(2000));
});

test("bytes that never become a character end as U+FFFD", () => {
  const stream = new TextStream(tokenizer);
  const [first] = tokenizer.encode("你");
  expect(stream.push(first)).toBe("");
  expect(stream.end()).toBe("\ufffd");
});

describe("stop strings", () => {
  test("the first to be whole cuts the text, over pieces too", () => {
    const stops = new StopStrings(["</end>", "STOP"]);
    const told = ["a<", "/e", "x</en", "d> more"].map((piece) => stops.push(piece));
    expect(told).toEqual(["a", "", "</ex", ""]);
    expect(stops.found).toBe("</end>");
    expect(stops.end()).toBe("");
  });

  test("what only begins one is told at the end", () => {
    const stops = new StopStrings(["STOP"]);
    expect(stops.push("x STO")).toBe("x ");
    expect(stops.end()).toBe("STO");
  });

  sweep(
    "random texts are cut where they should",
    { slice: 2000, whole: 100_000 },
    async (seed, n) => {
      const random = seeded(seed);
      const letters = (most: number) =>
        Array.from({ length: random.integer(1, most) }, () => random.pick(["a", "b"])).join("");
      for (let i = 0; i < n; i++) {
        const given = Array.from({ length: random.integer(1, 3) }, () => letters(4));
        const pieces = Array.from({ length: random.integer(1, 8) }, () => letters(3));
        const stops = new StopStrings(given);
        let told = "";
        let read = "";
        for (const piece of pieces) {
          told += stops.push(piece);
          read += piece;
          if (stops.found !== undefined) break;
        }
        told += stops.end();
        // Pieces come until one is found; the leftmost of those in what came counts.
        const places = given.map((stop) => read.indexOf(stop)).filter((at) => at >= 0);
        const cut = places.length === 0 ? read : read.slice(0, Math.min(...places));
        expect(told).toBe(cut);
        expect(stops.found !== undefined).toBe(places.length > 0);
      }
    },
  );
});

describe("chat template", () => {
  const source =
    "{{ bos_token }}{% for m in messages %}" +
    "{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}" +
    "[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[me]{% endif %}";
  const template = new ChatTemplate(source, { bos_token: "<s>" });
  const user = { role: "user", content: "hi" };

  test("messages become a text", () => {
    expect(template.render({ messages: [user] })).toBe("<s>[user]hi[me]");
    const without = { messages: [user], addGenerationPrompt: false };
    expect(template.render(without)).toBe("<s>[user]hi");
  });

  test("what it refuses, and what cannot be read, is a typed error", () => {
    const said = () => template.render({ messages: [{ role: "tool", content: "" }] });
    expect(said).toThrow(/the chat template refuses these messages: no tools/);
    expect(() => new ChatTemplate("{% if %}", {})).toThrow(/cannot be read/);
    expect(() => template.render({ messages: [] })).toThrow(/messages must be one or more/);
    expect(() => template.render({ messages: [{} as never] })).toThrow(/messages\[0\]\.role/);
  });
});
