import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ChatTemplate } from "../../src/text/chat-template.ts";
import { tokenizerJsonOf } from "../../src/text/gguf-tokenizer.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { openGguf } from "../../src/weights/gguf.ts";
import { vocabularyOf } from "../../src/weights/gguf-vocabulary.ts";
import { root } from "../support/sources.ts";

/** Where `bun run check:vocabularies` puts them. */
const folder = join(root, ".toolchain", "vocabularies");
const isHere = existsSync(folder);

const names = [
  ["llama-spm", "phi-3"],
  ["gpt-2", "llama-bpe", "qwen2", "starcoder", "refact", "command-r"],
].flat();

test.skipIf(!isHere).each(names)(
  "%s cuts texts as ggml does",
  (name) => {
    const path = join(folder, `ggml-vocab-${name}.gguf`);
    const tokenizer = new Tokenizer(tokenizerJsonOf(vocabularyOf(openGguf(path)))!);
    const texts = readFileSync(`${path}.inp`, "utf8").split("\n__ggml_vocab_test__\n");
    const lines = readFileSync(`${path}.out`, "utf8").split("\n");
    expect(texts.length).toBeGreaterThan(40);
    texts.forEach((text, i) => {
      const ids = tokenizer.encode(text);
      expect([text, ids.join(" ")]).toEqual([text, lines[i].trim()]);
      const bytes = [...ids].flatMap((id) => [...tokenizer.bytesOf(id)!]);
      const said = new TextDecoder().decode(Uint8Array.from(bytes));
      // SentencePiece begins a text with a space of its own.
      expect([text, ` ${text}`]).toContain(said);
    });
  },
  60_000,
);

const city = { type: "object", properties: { city: { type: "string", description: "where" } } };
const described = { name: "weather", description: "the weather", parameters: city };
const tools = [{ type: "function", function: described }];
const called = { name: "weather", arguments: '{"city":"Rome"}' };
const messages = [
  { role: "user", content: "hi" },
  {
    role: "assistant",
    content: "",
    tool_calls: [{ id: "abcdefghi", type: "function", function: called }],
  },
];

describe("templates show calls of tools as they are read", () => {
  const cases: [template: string, call: RegExp][] = [
    [
      "Qwen-Qwen2.5-7B-Instruct",
      /<tool_call>\n\{"name": "weather", "arguments": \{"city": "Rome"\}\}/,
    ],
    ["Qwen-Qwen3-0.6B", /<tool_call>\n\{"name": "weather", "arguments": \{"city": "Rome"\}\}/],
    [
      "mistralai-Mistral-Nemo-Instruct-2407",
      /\[TOOL_CALLS\] ?\[\{"name": "weather", "arguments": \{/,
    ],
    [
      "meta-llama-Llama-3.1-8B-Instruct",
      /\n\{"name": "weather", "parameters": \{"city": "Rome"\}\}/,
    ],
  ];
  test.skipIf(!isHere).each(cases)("%s", (name, call) => {
    const source = readFileSync(join(folder, "templates", `${name}.jinja`), "utf8");
    const template = new ChatTemplate(source, { bos_token: "<s>", eos_token: "</s>" });
    expect(template.toolFormat).toBeDefined();
    const text = template.render({ messages, tools, addGenerationPrompt: false });
    expect(text).toMatch(call);
  });

  test.skipIf(!isHere).each(["GLM-4.6", "Qwen3-Coder"])("%s has another format", (name) => {
    const source = readFileSync(join(folder, "templates", `${name}.jinja`), "utf8");
    expect(new ChatTemplate(source, {}).toolFormat).toBeUndefined();
  });
});
