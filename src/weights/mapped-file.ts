import { closeSync, openSync, readSync, statSync } from "node:fs";
import { CheckpointError } from "./errors.ts";

/** Bytes that a header has at most; more than any has. */
const headMost = 1 << 30;
/** What a mapping begins at a multiple of. */
const page = 1 << 16;

/** A file whose parts are mapped into memory when they are asked for, and read when touched. */
export class MappedFile {
  readonly bytes: number;

  /** Errors: CheckpointError. */
  constructor(readonly path: string) {
    const found = statOf(path);
    if (!found.isFile()) throw new CheckpointError(path, "it is not a file", "give a file.");
    this.bytes = found.size;
    // An empty file cannot be mapped.
    if (this.bytes === 0) throw new CheckpointError(path, "it is empty", "fetch it again.");
  }

  /** Its beginning, where headers stand. */
  head(): Uint8Array {
    return this.range(0, Math.min(this.bytes, headMost));
  }

  /** The bytes [from, to), which lie in it. */
  range(from: number, to: number): Uint8Array {
    if (from === to) return new Uint8Array(0);
    const offset = from - (from % page);
    try {
      // A mapping has at most 4 GiB: one of the whole file would not do.
      const mapped = Bun.mmap(this.path, { shared: false, offset, size: to - offset });
      return mapped.subarray(from - offset, to - offset);
    } catch (error) {
      const what = `bytes ${from} to ${to} cannot be mapped (${error})`;
      throw new CheckpointError(this.path, what, "copy it to a local disk.", { cause: error });
    }
  }

  /**
   * Reads the bytes from `from` on into memory: faster than touching them page by page. Errors:
   * CheckpointError.
   */
  readInto(into: Uint8Array, from: number): void {
    let file: number | undefined;
    try {
      file = openSync(this.path, "r");
      for (let at = 0; at < into.length;) {
        const count = readSync(file, into, at, into.length - at, from + at);
        if (count === 0) throw new Error("it has become shorter");
        at += count;
      }
    } catch (error) {
      const what = `bytes ${from} to ${from + into.length} cannot be read (${error})`;
      throw new CheckpointError(this.path, what, "copy it to a local disk.", { cause: error });
    } finally {
      if (file !== undefined) closeSync(file);
    }
  }
}

function statOf(path: string) {
  try {
    return statSync(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new CheckpointError(path, `it cannot be read (${code})`, "give a file that exists.", {
      cause: error,
    });
  }
}

/** Reads little-endian values one after the other; past the end it throws a CheckpointError. */
export class FileReader {
  /** The file's beginning. */
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  at = 0;

  constructor(readonly file: MappedFile) {
    const bytes = (this.bytes = file.head());
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Bytes that are left in the file's beginning. */
  get left(): number {
    return this.bytes.length - this.at;
  }

  /** An error about this file. */
  wrong(what: string): CheckpointError {
    return new CheckpointError(this.file.path, what, "fetch the file again, or convert it anew.");
  }

  /** Where the next `bytes` lie; moves past them. */
  take(bytes: number, what: string): number {
    if (bytes > this.left)
      throw this.wrong(`it ends within ${what} (byte ${this.at} of ${this.bytes.length})`);
    const at = this.at;
    this.at += bytes;
    return at;
  }

  u8(what: string): number {
    return this.#view.getUint8(this.take(1, what));
  }

  i8(what: string): number {
    return this.#view.getInt8(this.take(1, what));
  }

  u16(what: string): number {
    return this.#view.getUint16(this.take(2, what), true);
  }

  i16(what: string): number {
    return this.#view.getInt16(this.take(2, what), true);
  }

  u32(what: string): number {
    return this.#view.getUint32(this.take(4, what), true);
  }

  i32(what: string): number {
    return this.#view.getInt32(this.take(4, what), true);
  }

  f32(what: string): number {
    return this.#view.getFloat32(this.take(4, what), true);
  }

  f64(what: string): number {
    return this.#view.getFloat64(this.take(8, what), true);
  }

  /** A 64-bit count or offset; above 2^53 it is refused, since no file is that long. */
  u64(what: string): number {
    return this.#safe(this.#view.getBigUint64(this.take(8, what), true), what);
  }

  i64(what: string): number {
    return this.#safe(this.#view.getBigInt64(this.take(8, what), true), what);
  }

  /** How many of something follow, each of at least `leastBytes`. */
  count(what: string, leastBytes: number): number {
    const count = this.u64(what);
    if (count * leastBytes > this.left)
      throw this.wrong(`${what} is ${count}, more than the file can hold`);
    return count;
  }

  /** UTF-8 text behind its 64-bit length. */
  text(what: string): string {
    const length = this.count(`the length of ${what}`, 1);
    const at = this.take(length, what);
    return utf8.decode(this.bytes.subarray(at, at + length));
  }

  #safe(value: bigint, what: string): number {
    if (value > BigInt(Number.MAX_SAFE_INTEGER) || value < BigInt(Number.MIN_SAFE_INTEGER))
      throw this.wrong(`${what} is ${value}, out of range`);
    return Number(value);
  }
}

const utf8 = new TextDecoder();
