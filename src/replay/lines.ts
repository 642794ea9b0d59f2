import { InputError } from "../errors.ts";

/** One line of a text file: `text` is null when `fault` says why it could not be read. */
export interface Line {
  /** Counts from 1. */
  number: number;
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

/**
 * The lines of a file, read piece by piece; stopping early closes it.
 * @throws InputError when the file cannot be read
 */
export async function* readLines(path: string): AsyncGenerator<Line> {
  const splitter = new LineSplitter();
  try {
    for await (const chunk of Bun.file(path).stream()) yield* splitter.push(chunk);
  } catch (cause) {
    throw unreadable(path, cause);
  }
  yield* splitter.end();
}

function unreadable(path: string, cause: unknown): InputError {
  const code = (cause as NodeJS.ErrnoException).code ?? String(cause);
  const reasons: Record<string, [string, string]> = {
    ENOENT: ["no such file", "check the path"],
    EISDIR: ["it is a directory", "name a file in it"],
    EACCES: ["no permission to read it", "check its permissions"],
  };
  const [reason, fix] = reasons[code] ?? [`it cannot be read (${code})`, "check the file"];
  return new InputError(path, undefined, reason, `${fix}.`);
}
