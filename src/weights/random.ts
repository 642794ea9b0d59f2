import { statSync } from "node:fs";
import { join } from "node:path";
import { OptionError } from "../errors.ts";
import { tokenizerJsonOf } from "../text/gguf-tokenizer.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { readJson } from "./safetensors.ts";
import { namedShapes } from "./shapes.ts";

/**
 * A model of random weights, for measuring: `shape` is one of {@link namedShapes}, or the path of a
 * config.json or of its folder. Texts are cut into bytes, and nothing ends an answer. `option` is
 * what an error calls it. Errors: OptionError, CheckpointError.
 */
export function randomCheckpoint(shape: string, option = "model"): Checkpoint {
  const config = namedShapes[shape] ?? configAt(shape, option);
  const tokens = byteCharacters();
  const bytes = { model: "gpt2", pre: "gpt-2", tokens, kinds: tokens.map(() => 1), merges: [] };
  return {
    path: shape,
    config,
    tensors: new Map(),
    isRandom: true,
    tokenizer: { json: tokenizerJsonOf({ ...bytes, bos: undefined })!, config: {} },
    chatTemplate: "{% for message in messages %}{{ message.content }}\n{% endfor %}",
    templateTokens: {},
    sampling: {},
    endTokens: [],
  };
}

function configAt(path: string, option: string): Record<string, unknown> {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found !== undefined) return readJson(found.isDirectory() ? join(path, "config.json") : path);
  const allowed = `one of ${Object.keys(namedShapes).join(", ")}, or a config.json`;
  throw new OptionError(option, path, allowed, "name one, or give the path of a config.json.");
}

/** How GPT-2 writes bytes as characters that can be seen. */
function byteCharacters(): string[] {
  const isShown = (byte: number) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCodePoint(isShown(byte) ? byte : next++),
  );
}
