import { InputError, OptionError } from "../errors.ts";
import { requireInteger } from "../require.ts";
import { type Line, readLines } from "./lines.ts";
import { tokenOf } from "./tokens.ts";
import type { ReplayRequest } from "./types.ts";

/** How to read a trace. */
export interface TraceOptions {
  /** Reading stops after this many requests; absent: the whole file. */
  requests?: number;
  /** Prompt and output lengths are multiplied by this, and stay 1 or more. Default 1. */
  scaleLengths?: number;
  /** Malformed lines are skipped and counted instead of refused. */
  lenient?: boolean;
  /** Seeds the token ids of traces that hold none. */
  seed?: number;
}

/** Formats that `readTrace` knows, by what their first line looks like. */
export type TraceFormat = "azure-csv" | "mooncake-jsonl";

/** A trace in memory, requests in order of arrival, the first at 0 seconds. */
export interface Trace {
  format: TraceFormat;
  requests: ReplayRequest[];
  /** Malformed lines left out (lenient only), and what was wrong with the first. */
  skipped: number;
  firstSkipped: string | null;
}

/** Limits on what a file may ask for: tokens of one length, and of all prompts together. */
const lengthMax = 1 << 22;
const promptTokensMax = 1 << 28;

/** Tokens that one of Mooncake's hash ids represents. */
const blockTokens = 512;

/** What one line says, before scaling. */
interface Row {
  /** On the trace's own clock. */
  seconds: number;
  promptTokens: number;
  outputTokens: number;
  hashIds: readonly number[] | null;
}

/** A line that is not what it should be; the message is the reason. */
class Malformed extends Error {}

/**
 * Reads a serving trace: the Azure 2023 CSV or Mooncake's JSONL, recognised by content.
 * @throws OptionError for options outside their range
 * @throws InputError for a file that cannot be read, of another format, with a malformed line
 *   (naming line and reason), or without a request
 */
export async function readTrace(path: string, options: TraceOptions = {}): Promise<Trace> {
  const { requests: limit = Infinity, scaleLengths = 1, lenient = false, seed = 1 } = options;
  if (limit !== Infinity) requireInteger("requests", limit, 1);
  requireScale(scaleLengths);
  const requests: ReplayRequest[] = [];
  let format: TraceFormat | null = null;
  let skipped = 0;
  let firstSkipped: string | null = null;
  let tokens = 0;
  for await (const line of readLines(path)) {
    if (line.text === "") continue;
    if (format === null) {
      format = recognise(path, line);
      if (isHeader(line)) continue;
    }
    let row: Row;
    try {
      row = parse(line, format);
    } catch (cause) {
      if (!(cause instanceof Malformed)) throw cause;
      const error = new InputError(path, line.number, cause.message, malformedFix);
      if (!lenient) throw error;
      skipped++;
      firstSkipped ??= `line ${line.number}: ${cause.message}`;
      continue;
    }
    const request = toRequest(row, requests.length, scaleLengths, seed);
    tokens += request.promptTokens.length;
    if (tokens > promptTokensMax)
      throw new InputError(
        path,
        line.number,
        `the prompts up to here hold more than ${promptTokensMax} tokens`,
        "read fewer requests (--requests) or shorter ones (--scale-lengths).",
      );
    requests.push(request);
    if (requests.length >= limit) break;
  }
  if (requests.length === 0 || format === null)
    throw new InputError(path, undefined, "it holds no request", "give a trace with requests.");
  return { format, requests: fromFirstArrival(requests), skipped, firstSkipped };
}

const malformedFix = "correct the line, or skip such lines with --lenient.";

function requireScale(scale: number): void {
  if (scale > 0 && scale <= 1000) return;
  const fix = "give a factor such as 0.1, or leave it out.";
  throw new OptionError("scaleLengths", scale, "a number above 0, at most 1000", fix);
}

const csvHeader = /^timestamp,contexttokens,generatedtokens$/i;
const csvRow = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d+)?(?:Z|\+00:00)?,([^,]*),([^,]*)$/;

function isHeader(line: Line): boolean {
  return csvHeader.test(line.text ?? "");
}

function recognise(path: string, line: Line): TraceFormat {
  const text = line.text ?? "";
  if (isHeader(line) || csvRow.test(text)) return "azure-csv";
  if (text.startsWith("{")) return "mooncake-jsonl";
  throw new InputError(
    path,
    line.number,
    line.fault || "neither the Azure CSV header nor a JSON object",
    "give an Azure 2023 CSV (TIMESTAMP,ContextTokens,GeneratedTokens) or a Mooncake JSONL file.",
  );
}

function parse(line: Line, format: TraceFormat): Row {
  if (line.text === null) throw new Malformed(line.fault);
  return format === "azure-csv" ? parseCsv(line.text) : parseJson(line.text);
}

function parseCsv(text: string): Row {
  const match = csvRow.exec(text);
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
  return {
    seconds: milliseconds / 1000 + Number(match[3] ?? 0),
    promptTokens: csvLength("ContextTokens", match[4]),
    outputTokens: csvLength("GeneratedTokens", match[5]),
    hashIds: null,
  };
}

function csvLength(name: string, text: string): number {
  // Number("") is 0 and Number("1e3") is 1000: neither is a count in this format.
  return lengthOf(name, /^\d+$/.test(text) ? Number(text) : text);
}

function parseJson(text: string): Row {
  let value: Record<string, unknown>;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Malformed(`not JSON (${shown(text)})`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new Malformed("not a JSON object");
  const { timestamp, input_length: input, output_length: output, hash_ids: ids } = value;
  if (typeof timestamp !== "number" || !(timestamp >= 0 && timestamp <= 1e15))
    throw new Malformed(`timestamp must be milliseconds, 0 or more (got ${shown(timestamp)})`);
  const promptTokens = lengthOf("input_length", input);
  return {
    seconds: timestamp / 1000,
    promptTokens,
    outputTokens: lengthOf("output_length", output),
    hashIds: hashIdsOf(ids, promptTokens),
  };
}

function hashIdsOf(ids: unknown, promptTokens: number): readonly number[] {
  if (!Array.isArray(ids)) throw new Malformed(`hash_ids must be an array (got ${shown(ids)})`);
  const blocks = Math.ceil(promptTokens / blockTokens);
  if (ids.length !== blocks)
    throw new Malformed(
      `hash_ids has ${ids.length} ids where input_length ${promptTokens} takes ${blocks}`,
    );
  for (const id of ids as unknown[])
    if (!Number.isSafeInteger(id) || (id as number) < 0)
      throw new Malformed(`hash_ids must hold integers of 0 or more (got ${shown(id)})`);
  return ids as number[];
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

/**
 * Scales a row and makes its tokens. A scaled prompt samples the original one evenly, so prompts
 * that share leading hash ids share a prefix at every scale.
 */
function toRequest(row: Row, id: number, scale: number, seed: number): ReplayRequest {
  const length = scaled(row.promptTokens, scale);
  const promptTokens = new Int32Array(length);
  const { hashIds } = row;
  for (let i = 0; i < length; i++) {
    if (hashIds === null) {
      promptTokens[i] = tokenOf(seed * 65_537 + id, i);
    } else {
      const at = Math.min(Math.floor(i / scale), row.promptTokens - 1);
      promptTokens[i] = tokenOf(hashIds[Math.floor(at / blockTokens)], at % blockTokens);
    }
  }
  const outputTokens = scaled(row.outputTokens, scale);
  return { id, arrivalSeconds: row.seconds, promptTokens, outputTokens };
}

function scaled(length: number, scale: number): number {
  return Math.max(1, Math.round(length * scale));
}

/** Sorted by arrival (rows of a file may be out of order), counted from the first. */
function fromFirstArrival(requests: ReplayRequest[]): ReplayRequest[] {
  requests.sort((a, b) => a.arrivalSeconds - b.arrivalSeconds);
  const first = requests[0].arrivalSeconds;
  for (const request of requests) request.arrivalSeconds -= first;
  return requests;
}
