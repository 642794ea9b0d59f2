import { InputError, OptionError } from "../errors.ts";
import { requireInteger } from "../require.ts";
import { counted } from "../shown.ts";
import { Failed, formats, formatsInWords, Malformed, type Parser, type Row } from "./formats.ts";
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
  /** Tokens that one of a Mooncake trace's hash ids stands for; default 512. */
  hashBlock?: number;
}

/** A trace in memory, requests in order of arrival, the first at 0 seconds. */
export interface Trace {
  /** Its name, such as azure-csv. */
  format: string;
  requests: ReplayRequest[];
  /** Lines left out: requests that failed, and with `lenient` malformed ones. */
  skipped: number;
  /** Why: each reason with how often and where first; empty when none was. */
  whySkipped: string;
}

/** Tokens of all prompts together, at most. */
const promptTokensMax = 1 << 28;

/** Tokens of one of the hash ids that Mooncake published. */
const hashBlockDefault = 512;

/**
 * Reads a serving trace of one of the formats that src/replay/formats.ts lists, recognised by
 * content, packed by gzip or not.
 * @throws OptionError for options outside their range
 * @throws InputError for a file that cannot be read, of another format, with a malformed line
 *   (naming line and reason), or without a request
 */
export async function readTrace(path: string, options: TraceOptions = {}): Promise<Trace> {
  const { requests: limit = Infinity, scaleLengths = 1, lenient = false, seed = 1 } = options;
  const { hashBlock = hashBlockDefault } = options;
  if (limit !== Infinity) requireInteger("requests", limit, 1);
  requireInteger("hashBlock", hashBlock, 1, 1 << 16);
  requireScale(scaleLengths);
  const requests: ReplayRequest[] = [];
  const skipped = new Skipped();
  let found: { format: string; parse: Parser } | undefined;
  let tokens = 0;
  for await (const line of readLines(path)) {
    if (line.text === "") continue;
    if (found === undefined) {
      const { format, parse, isHeader } = recognise(path, line, hashBlock);
      found = { format, parse };
      if (isHeader) continue;
    }
    const rows = rowsOf(path, line, found.parse, lenient, skipped);
    for (let i = 0; i < rows.length && requests.length < limit; i++) {
      const request = toRequest(rows[i], requests.length, scaleLengths, seed);
      tokens += request.promptTokens.length;
      if (tokens > promptTokensMax)
        throw new InputError(
          path,
          line.number,
          `the prompts up to here hold more than ${promptTokensMax} tokens`,
          "read fewer requests (--requests) or shorter ones (--scale-lengths).",
        );
      requests.push(request);
    }
    if (requests.length >= limit) break;
  }
  if (requests.length === 0 || found === undefined) throw nothingIn(path, skipped);
  const { count, reasons } = skipped;
  const { format } = found;
  return { format, requests: fromFirstArrival(requests), skipped: count, whySkipped: reasons };
}

/** Lines that were left out, by reason. */
class Skipped {
  count = 0;
  readonly #byReason = new Map<string, { lines: number; first: string }>();

  add(line: Line, reason: string): void {
    this.count++;
    // Numbers differ from line to line, the reason does not.
    const kind = reason.replace(/\d+|\(got .*\)/g, "");
    const known = this.#byReason.get(kind);
    if (known === undefined) {
      const first = line.number === undefined ? reason : `line ${line.number}: ${reason}`;
      this.#byReason.set(kind, { lines: 1, first });
    } else known.lines++;
  }

  get reasons(): string {
    const all = [...this.#byReason.values()].sort((a, b) => b.lines - a.lines);
    return all.map(({ lines, first }) => (lines > 1 ? `${lines} as ${first}` : first)).join("; ");
  }
}

function rowsOf(
  path: string,
  line: Line,
  parse: Parser,
  lenient: boolean,
  skipped: Skipped,
): Row[] {
  try {
    if (line.text === null) throw new Malformed(line.fault);
    return parse(line.text);
  } catch (cause) {
    if (!(cause instanceof Malformed) && !(cause instanceof Failed)) throw cause;
    if (cause instanceof Malformed && !lenient)
      throw new InputError(path, line.number, cause.message, malformedFix);
    skipped.add(line, cause.message);
    return [];
  }
}

function nothingIn(path: string, { count, reasons }: Skipped): InputError {
  const fix = "give a trace with requests.";
  if (count === 0) return new InputError(path, undefined, "it holds no request", fix);
  const why = `it holds no request: ${counted(count, "line")} skipped, ${reasons}`;
  return new InputError(path, undefined, why, fix);
}

const malformedFix = "correct the line, or skip such lines with --lenient.";

function requireScale(scale: number): void {
  if (scale > 0 && scale <= 1000) return;
  const fix = "give a factor such as 0.1, or leave it out.";
  throw new OptionError("scaleLengths", scale, "a number above 0, at most 1000", fix);
}

function recognise(path: string, line: Line, hashBlock: number) {
  for (const { name, start } of line.text === null ? [] : formats) {
    const started = start(line.text!, { hashBlock });
    if (started !== undefined) return { format: name, ...started };
  }
  const reason = line.fault || "it is of no format that is known";
  throw new InputError(path, line.number, reason, `give ${formatsInWords}.`);
}

/**
 * Scales a row and makes its tokens. A scaled prompt samples the original one evenly, so prompts
 * that begin alike share a prefix at every scale.
 */
function toRequest(row: Row, id: number, scale: number, seed: number): ReplayRequest {
  const length = scaled(row.promptTokens, scale);
  const promptTokens = new Int32Array(length);
  const { tokenAt } = row;
  for (let i = 0; i < length; i++) {
    const at = Math.min(Math.floor(i / scale), row.promptTokens - 1);
    promptTokens[i] = tokenAt?.(at) ?? tokenOf(seed * 65_537 + id, i);
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
