/** Formats of serving traces: how each is recognised, and what its lines say. */
import { tokenOf } from "./tokens.ts";

/** What one line says of a request, before scaling. */
export interface Row {
  /** On the trace's own clock. */
  seconds: number;
  promptTokens: number;
  outputTokens: number;
  /** Id of a prompt token, where the trace says which prompts begin alike. */
  tokenAt?: (index: number) => number;
}

/** A line that is not what it should be; the message is the reason. */
export class Malformed extends Error {}

/** A request that the trace itself says has failed: there is nothing to replay. */
export class Failed extends Error {}

/** The requests of a line. Errors: Malformed, Failed. */
export type Parser = (text: string) => Row[];

/** How to read what the trace leaves open. */
export interface FormatOptions {
  /** Tokens that one of a Mooncake trace's hash ids stands for. */
  hashBlock: number;
}

/** One format. */
export interface Format {
  readonly name: string;
  /**
   * What reads the lines of a trace, by its first one; undefined if it is of another format.
   * `isHeader`: the first line holds no request.
   */
  start(first: string, options: FormatOptions): { parse: Parser; isHeader: boolean } | undefined;
}

/** Tokens of one length, at most. */
const lengthMax = 1 << 22;

const azureHeader = /^timestamp,contexttokens,generatedtokens$/i;
const azureRow = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d+)?(?:Z|\+00:00)?,([^,]*),([^,]*)$/;

/** Azure's LLM inference traces of 2023. */
const azure: Format = {
  name: "azure-csv",
  start(first) {
    const isHeader = azureHeader.test(first);
    return isHeader || azureRow.test(first) ? { parse: parseAzure, isHeader } : undefined;
  },
};

function parseAzure(text: string): Row[] {
  const match = azureRow.exec(text);
  if (match === null) {
    const fields = text.split(",").length;
    throw new Malformed(
      fields === 3
        ? `TIMESTAMP must be a date and time such as 2023-11-16 18:15:46.68 (got ${shown(text)})`
        : `${fields} fields, not the 3 of TIMESTAMP,ContextTokens,GeneratedTokens`,
    );
  }
  const milliseconds = Date.parse(`${match[1]}T${match[2]}Z`);
  if (Number.isNaN(milliseconds)) throw new Malformed(`TIMESTAMP is no date (${shown(text)})`);
  return [
    {
      seconds: milliseconds / 1000 + Number(match[3] ?? 0),
      promptTokens: csvLength("ContextTokens", match[4]),
      outputTokens: csvLength("GeneratedTokens", match[5]),
    },
  ];
}

/** BurstGPT (arXiv 2401.17644), whichever columns beside the three it has. */
const burst: Format = {
  name: "burstgpt-csv",
  start(first) {
    const names = first.split(",").map((name) => name.trim().toLowerCase());
    const places = ["timestamp", "request tokens", "response tokens"].map((name) =>
      names.indexOf(name),
    );
    if (places.includes(-1)) return undefined;
    return { isHeader: true, parse: (text) => [parseBurst(text, names.length, places)] };
  },
};

function parseBurst(text: string, count: number, places: readonly number[]): Row {
  const fields = text.split(",");
  if (fields.length !== count)
    throw new Malformed(`${fields.length} fields where the header has ${count}`);
  const [seconds, request, response] = places.map((place) => fields[place].trim());
  if (!/^\d+(\.\d+)?$/.test(seconds))
    throw new Malformed(`Timestamp must be seconds, 0 or more (got ${shown(seconds)})`);
  if (response === "0") throw new Failed("Response tokens is 0: the request failed");
  return {
    seconds: Number(seconds),
    promptTokens: csvLength("Request tokens", request),
    outputTokens: csvLength("Response tokens", response),
  };
}

function csvLength(name: string, text: string): number {
  // Number("") is 0 and Number("1e3") is 1000: neither is a count in these formats.
  return lengthOf(name, /^\d+$/.test(text) ? Number(text) : text);
}

/** Mooncake's traces: prompts that share leading hash_ids begin alike. */
const mooncake: Format = {
  name: "mooncake-jsonl",
  start(first, { hashBlock }) {
    if (!first.startsWith("{") || /"conversations"\s*:/.test(first)) return undefined;
    return { isHeader: false, parse: (text) => [parseMooncake(text, hashBlock)] };
  },
};

function parseMooncake(text: string, hashBlock: number): Row {
  const { timestamp, input_length: input, output_length: output, hash_ids: ids } = objectIn(text);
  if (typeof timestamp !== "number" || !(timestamp >= 0 && timestamp <= 1e15))
    throw new Malformed(`timestamp must be milliseconds, 0 or more (got ${shown(timestamp)})`);
  const promptTokens = lengthOf("input_length", input);
  const hashIds = hashIdsOf(ids, promptTokens, hashBlock);
  return {
    seconds: timestamp / 1000,
    promptTokens,
    outputTokens: lengthOf("output_length", output),
    tokenAt: (index) => tokenOf(hashIds[Math.floor(index / hashBlock)], index % hashBlock),
  };
}

function hashIdsOf(ids: unknown, promptTokens: number, hashBlock: number): readonly number[] {
  if (!Array.isArray(ids)) throw new Malformed(`hash_ids must be an array (got ${shown(ids)})`);
  const blocks = Math.ceil(promptTokens / hashBlock);
  if (ids.length !== blocks) {
    const given = `hash_ids has ${ids.length} ids where input_length ${promptTokens}`;
    const block = blockOf(ids.length, promptTokens);
    const hint = block === undefined ? "" : `; blocks of ${block} would fit: --hash-block ${block}`;
    throw new Malformed(`${given} takes ${blocks} of ${hashBlock} tokens each${hint}`);
  }
  for (const id of ids as unknown[])
    if (!Number.isSafeInteger(id) || (id as number) < 0)
      throw new Malformed(`hash_ids must hold integers of 0 or more (got ${shown(id)})`);
  return ids as number[];
}

/** The power of two that cuts a prompt into so many blocks. */
function blockOf(blocks: number, promptTokens: number): number | undefined {
  for (let block = 1; block <= 1 << 16; block *= 2)
    if (Math.ceil(promptTokens / block) === blocks) return block;
  return undefined;
}

/** Letters that stand for a token, since there is no tokenizer here: about what English has. */
const lettersPerToken = 4;

/** Conversations as ShareGPT has them: each answer is a request over all that was said before. */
const shareGpt: Format = {
  name: "sharegpt-json",
  start(first) {
    const isOne = first.startsWith("{") && /"conversations"\s*:/.test(first);
    return isOne ? { isHeader: false, parse: parseConversation } : undefined;
  },
};

function parseConversation(text: string): Row[] {
  const { conversations: turns } = objectIn(text);
  if (!Array.isArray(turns)) throw new Malformed("conversations must be an array");
  const rows: Row[] = [];
  let said = "";
  for (const turn of turns as unknown[]) {
    const { from, value } = (turn ?? {}) as { from?: unknown; value?: unknown };
    if (typeof from !== "string" || typeof value !== "string")
      throw new Malformed("a turn must have texts `from` and `value`");
    const isAnswer = /^(gpt|assistant|bot|chatgpt|bard|bing)$/.test(from);
    if (isAnswer && said !== "" && value !== "") rows.push(answerTo(said, value));
    said += value;
  }
  if (rows.length === 0) throw new Malformed("the conversation has no answer to anything");
  return rows;
}

/** Prompts that begin with the same letters have the same first tokens. */
function answerTo(prompt: string, answer: string): Row {
  return {
    seconds: 0,
    promptTokens: lengthOf("the conversation", Math.ceil(prompt.length / lettersPerToken)),
    outputTokens: lengthOf("the answer", Math.ceil(answer.length / lettersPerToken)),
    tokenAt(index) {
      const piece = prompt.slice(index * lettersPerToken, (index + 1) * lettersPerToken);
      let code = 0;
      for (let i = 0; i < piece.length; i++) code = code * 65_537 + piece.charCodeAt(i);
      return tokenOf(code % 2 ** 53, 0);
    },
  };
}

function objectIn(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Malformed(`not JSON (${shown(text)})`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new Malformed("not a JSON object");
  return value as Record<string, unknown>;
}

function lengthOf(name: string, value: unknown): number {
  if (Number.isSafeInteger(value) && (value as number) >= 1 && (value as number) <= lengthMax)
    return value as number;
  throw new Malformed(`${name} must be an integer from 1 to ${lengthMax} (got ${shown(value)})`);
}

/** A value as a message shows it: short, on one line, without control characters. */
function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** All formats, in the order in which they are tried. */
export const formats: readonly Format[] = [azure, burst, shareGpt, mooncake];

/** What a trace may be, for messages. */
export const formatsInWords =
  "an Azure 2023 CSV (TIMESTAMP,ContextTokens,GeneratedTokens), a BurstGPT CSV (Timestamp, " +
  "Request tokens, Response tokens), a Mooncake JSONL or a ShareGPT JSON file, or one of them " +
  "packed by gzip";
