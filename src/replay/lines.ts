import { InputError } from "../errors.ts";

/** One line of a text file: `text` is null when `fault` says why it could not be read. */
export interface Line {
  /** Counts from 1; of items of an array, none. */
  number: number | undefined;
  text: string | null;
  fault: string;
}

/** Longest line that is kept; no trace has one of a tenth of it. */
const lineBytesMax = 1 << 20;

const newline = 0x0a;

/** Cuts chunks of bytes into lines, holding no more than one line and one chunk. */
export class LineSplitter {
  #number = 0;
  #parts: Uint8Array[] = [];
  #bytes = 0;
  readonly #decoder = new TextDecoder("utf-8", { fatal: true });

  /** The lines that end within this chunk. */
  *push(chunk: Uint8Array): Generator<Line> {
    let start = 0;
    for (;;) {
      const end = chunk.indexOf(newline, start);
      if (end === -1) break;
      this.#keep(chunk.subarray(start, end));
      start = end + 1;
      yield this.#take();
    }
    this.#keep(chunk.subarray(start));
  }

  /** The last line, when the file does not end with a newline. */
  *end(): Generator<Line> {
    if (this.#bytes > 0) yield this.#take();
  }

  /** Beyond the limit bytes are only counted, so a file without newlines takes no memory. */
  #keep(part: Uint8Array): void {
    this.#bytes += part.length;
    if (part.length > 0 && this.#bytes <= lineBytesMax) this.#parts.push(part);
  }

  #take(): Line {
    const number = ++this.#number;
    const bytes = this.#bytes;
    const joined = this.#parts.length === 1 ? this.#parts[0] : Buffer.concat(this.#parts);
    this.#parts = [];
    this.#bytes = 0;
    if (bytes > lineBytesMax)
      return { number, text: null, fault: `${bytes} bytes in one line, at most ${lineBytesMax}` };
    try {
      // The decoder drops a byte order mark, and `trim` the carriage return.
      return { number, text: this.#decoder.decode(joined).trim(), fault: "" };
    } catch {
      return { number, text: null, fault: "not UTF-8 text" };
    }
  }
}

const [openBrace, closeBrace, quote, backslash] = [...'{}"\\'].map((c) => c.charCodeAt(0));
const openBracket = "[".charCodeAt(0);

/** Cuts a JSON array of objects into its items, holding no more than one item and one chunk. */
class ItemSplitter {
  readonly #decoder = new TextDecoder();
  #parts: Uint8Array[] = [];
  #bytes = 0;
  #items = 0;
  #depth = 0;
  #inText = false;
  #escaped = false;

  /** The items that end within this chunk. */
  *push(chunk: Uint8Array): Generator<Line> {
    let start = this.#depth > 0 ? 0 : -1;
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i];
      if (this.#inText) {
        if (this.#escaped) this.#escaped = false;
        else if (byte === backslash) this.#escaped = true;
        else if (byte === quote) this.#inText = false;
      } else if (byte === quote) {
        this.#inText = true;
      } else if (byte === openBrace) {
        if (this.#depth++ === 0) start = i;
      } else if (byte === closeBrace && this.#depth > 0 && --this.#depth === 0) {
        this.#keep(chunk.subarray(start, i + 1));
        start = -1;
        yield this.#take();
      }
    }
    if (start >= 0) this.#keep(chunk.subarray(start));
  }

  /** What is left when the array is cut short. */
  *end(): Generator<Line> {
    const fault = "its last item has no end";
    if (this.#depth > 0) yield { number: undefined, text: null, fault };
  }

  #keep(part: Uint8Array): void {
    this.#bytes += part.length;
    if (this.#bytes <= itemBytesMax) this.#parts.push(part);
  }

  #take(): Line {
    const bytes = this.#bytes;
    const text = this.#decoder.decode(Buffer.concat(this.#parts));
    this.#parts = [];
    this.#bytes = 0;
    this.#items++;
    const fault = `item ${this.#items} has ${bytes} bytes, at most ${itemBytesMax}`;
    const isShort = bytes <= itemBytesMax;
    return { number: undefined, text: isShort ? text : null, fault: isShort ? "" : fault };
  }
}

/** Longest item of an array that is kept: a conversation of some days. */
const itemBytesMax = 1 << 24;

/**
 * The lines of a file, or the items of a JSON array, unpacked where gzip packed them; read piece
 * by piece, and closed when reading stops early.
 * @throws InputError when the file cannot be read
 */
export async function* readLines(path: string): AsyncGenerator<Line> {
  let splitter: LineSplitter | ItemSplitter | undefined;
  try {
    for await (const chunk of await bytesOf(path)) {
      splitter ??= firstByte(chunk) === openBracket ? new ItemSplitter() : new LineSplitter();
      yield* splitter.push(chunk);
    }
  } catch (cause) {
    throw unreadable(path, cause);
  }
  yield* splitter?.end() ?? [];
}

/** The first byte that is neither a byte order mark nor space. */
function firstByte(chunk: Uint8Array): number | undefined {
  return chunk.find((byte) => byte > 0x20 && ![0xef, 0xbb, 0xbf].includes(byte));
}

async function bytesOf(path: string): Promise<AsyncIterable<Uint8Array>> {
  const file = Bun.file(path);
  const [first, second] = await file.slice(0, 2).bytes();
  const isGzip = first === 0x1f && second === 0x8b;
  return isGzip ? file.stream().pipeThrough(new DecompressionStream("gzip")) : file.stream();
}

function unreadable(path: string, cause: unknown): InputError {
  const code = (cause as NodeJS.ErrnoException).code ?? String(cause);
  const reasons: Record<string, [string, string]> = {
    ENOENT: ["no such file", "check the path"],
    EISDIR: ["it is a directory", "name a file in it"],
    EACCES: ["no permission to read it", "check its permissions"],
    Z_DATA_ERROR: ["what gzip packed is damaged", "pack it again"],
    Z_BUF_ERROR: ["what gzip packed is cut short", "pack it again"],
  };
  const [reason, fix] = reasons[code] ?? [`it cannot be read (${code})`, "check the file"];
  return new InputError(path, undefined, reason, `${fix}.`);
}
