import { DebloatError } from "../errors.ts";

/** The error for something wrong in a file. */
export function damage(
  file: string,
  reason: string,
  fix = "it is damaged or cut short: get the file again.",
): DebloatError {
  return new DebloatError(file, reason, fix);
}

/** Little-endian bytes of a file, mapped or in memory; a read past their end is a DebloatError. */
export class Bytes {
  readonly #view: DataView;

  /**
   * @param data the bytes
   * @param file the file that they are of, for errors
   */
  constructor(
    readonly data: Uint8Array,
    readonly file: string,
  ) {
    this.#view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  }

  get length(): number {
    return this.data.byteLength;
  }

  u8(at: number): number {
    return this.data[this.#inside(at, 1)];
  }

  u16(at: number): number {
    return this.#view.getUint16(this.#inside(at, 2), true);
  }

  u32(at: number): number {
    return this.#view.getUint32(this.#inside(at, 4), true);
  }

  i32(at: number): number {
    return this.#view.getInt32(this.#inside(at, 4), true);
  }

  /** A number of 64 bits; more than 2^53 - 1 is refused, as no file is that long. */
  u64(at: number): number {
    this.#inside(at, 8);
    const value = this.#view.getUint32(at + 4, true) * 2 ** 32 + this.#view.getUint32(at, true);
    if (value > Number.MAX_SAFE_INTEGER) throw this.fail(`offset ${at} holds an impossible size`);
    return value;
  }

  /** A view, no copy. */
  slice(at: number, bytes: number): Uint8Array {
    this.#inside(at, bytes);
    return this.data.subarray(at, at + bytes);
  }

  /** Text up to a NUL, at most `most` bytes of it. */
  text(at: number, most = 65_536): string {
    this.#inside(at, 1);
    const window = this.data.subarray(at, at + most);
    const end = window.indexOf(0);
    if (end < 0) throw this.fail(`the name at offset ${at} has no end`);
    return latin1(window.subarray(0, end));
  }

  /** The error for something wrong in these bytes. */
  fail(reason: string, fix?: string): DebloatError {
    return damage(this.file, reason, fix);
  }

  #inside(at: number, bytes: number): number {
    if (at >= 0 && bytes >= 0 && at + bytes <= this.data.byteLength) return at;
    throw this.fail(`${bytes} bytes at offset ${at} are past its end at ${this.data.byteLength}`);
  }
}

/** Bytes as text of one byte a character: names of symbols are ASCII, whatever else is kept. */
export function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}

/** A copy in which numbers can be set, little-endian. */
export class Patch {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.bytes = Uint8Array.from(bytes);
    this.#view = new DataView(this.bytes.buffer);
  }

  u16(at: number, value: number): this {
    this.#view.setUint16(at, value, true);
    return this;
  }

  u32(at: number, value: number): this {
    this.#view.setUint32(at, value, true);
    return this;
  }

  u64(at: number, value: number): this {
    this.#view.setBigUint64(at, BigInt(value), true);
    return this;
  }
}
