import { readdirSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { OptionError } from "../errors.ts";
import type { TokenizerJson } from "../text/tokenizer.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { CheckpointError } from "./errors.ts";
import { openGgufCheckpoint } from "./gguf-checkpoint.ts";
import { hubFolder, isHubName } from "./hub.ts";
import { openSafetensorsFolder, readJson, readTextIfThere } from "./safetensors.ts";

/**
 * Opens a model: a GGUF file, a Hugging Face folder with config.json, tokenizer.json and
 * safetensors, or `org/name` for such a folder in the hub's cache on this machine. Weights
 * are mapped, not read. Errors: OptionError, CheckpointError.
 */
export function openCheckpoint(path: string): Checkpoint {
  if (typeof path !== "string" || path === "" || path.includes("\0"))
    throw new OptionError("path", path, "a folder or a .gguf file", "give where the model lies.");
  const found = statSync(path, { throwIfNoEntry: false });
  if (found?.isDirectory()) return openFolder(path);
  if (found === undefined && isHubName(path)) {
    const cached = hubFolder(path);
    if (cached !== undefined) return openFolder(cached);
    const fix = `give another path, or fetch it by \`hf download ${path}\`.`;
    throw new CheckpointError(path, "there is no such file, nor such a model of the hub here", fix);
  }
  if (found?.isFile() && /\.(safetensors|json|pth?)$/.test(path)) {
    const what = "it is one file of a model's folder, and no .gguf file";
    throw new CheckpointError(path, what, `give the folder, ${dirname(path)}.`);
  }
  return openGgufCheckpoint(path);
}

function openFolder(path: string): Checkpoint {
  requireModelIn(path);
  const config = readJson(join(path, "config.json"));
  const tokenizer = readJson(join(path, "tokenizer.json"));
  if (typeof tokenizer["model"] !== "object" || tokenizer["model"] === null)
    throw new CheckpointError(join(path, "tokenizer.json"), "it has no model", "fetch it again.");
  const tokenizerConfig = jsonIfThere(join(path, "tokenizer_config.json"));
  const generation = jsonIfThere(join(path, "generation_config.json"));
  return {
    path,
    config,
    tensors: openSafetensorsFolder(path),
    tokenizer: { json: tokenizer as TokenizerJson, config: tokenizerConfig },
    chatTemplate: templateOf(path, tokenizerConfig),
    templateTokens: templateTokens(tokenizerConfig),
    sampling: samplingOf(generation),
    endTokens: endTokens(generation["eos_token_id"] ?? config["eos_token_id"]),
  };
}

function requireModelIn(path: string): void {
  let names: string[];
  try {
    names = readdirSync(path);
  } catch {
    return; // config.json says whether it can be read.
  }
  if (names.includes("config.json")) return;
  const gguf = names.find((name) => name.endsWith(".gguf"));
  const what = "it is no model's folder: it has no config.json";
  const fix = `give ${gguf ? join(path, gguf) : "a Hugging Face folder or a .gguf file"}.`;
  throw new CheckpointError(path, what, fix);
}

function jsonIfThere(path: string): Record<string, unknown> {
  return readTextIfThere(path) === undefined ? {} : readJson(path);
}

/** Newer folders have a file of its own; a list of named templates holds one called default. */
function templateOf(path: string, config: Record<string, unknown>): string | undefined {
  const own = readTextIfThere(join(path, "chat_template.jinja"));
  if (own !== undefined) return own;
  const template = config["chat_template"];
  if (typeof template === "string") return template;
  if (!Array.isArray(template)) return undefined;
  const named = template as { name?: string; template?: string }[];
  return (named.find(({ name }) => name === "default") ?? named[0])?.template;
}

function templateTokens(config: Record<string, unknown>): Record<string, string> {
  const tokens: Record<string, string> = {};
  for (const [key, value] of Object.entries(config)) {
    if (!key.endsWith("_token")) continue;
    // A text, or an object that says how it is found in texts.
    const content = (value as { content?: unknown } | null)?.content ?? value;
    if (typeof content === "string") tokens[key] = content;
  }
  return tokens;
}

function endTokens(value: unknown): number[] {
  const ids: unknown[] = Array.isArray(value) ? value : [value];
  return ids.filter((id): id is number => Number.isInteger(id));
}

function samplingOf(generation: Record<string, unknown>): Checkpoint["sampling"] {
  if (generation["do_sample"] !== true) return {};
  const number = (field: string) => {
    const value = generation[field];
    return typeof value === "number" && Number.isFinite(value) ? value : undefined;
  };
  const given = {
    temperature: number("temperature") ?? 1,
    topK: number("top_k"),
    topP: number("top_p"),
    repetitionPenalty: number("repetition_penalty"),
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}
