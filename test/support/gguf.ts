/** Writes GGUF files, for tests of what reads them. */

/** A value of metadata with its type by name. */
export type GgufEntry =
  | { type: "u32" | "f32" | "bool" | "u64"; value: number }
  | { type: "string"; value: string }
  | { type: "strings"; value: readonly string[] }
  | { type: "i32s"; value: readonly number[] };

/** A tensor to write: shape outermost first, ggml's number of its format, and its bytes. */
export interface GgufTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly format: number;
  readonly bytes: Uint8Array;
}

const types = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9, u64: 10 };

class Writer {
  #bytes = new Uint8Array(1 << 12);
  #view = new DataView(this.#bytes.buffer);
  length = 0;

  room(bytes: number): number {
    while (this.length + bytes > this.#bytes.length) {
      const grown = new Uint8Array(2 * this.#bytes.length);
      grown.set(this.#bytes);
      this.#bytes = grown;
      this.#view = new DataView(grown.buffer);
    }
    const at = this.length;
    this.length += bytes;
    return at;
  }

  // The view changes with the room.
  u8(value: number): void {
    const at = this.room(1);
    this.#view.setUint8(at, value);
  }

  u32(value: number): void {
    const at = this.room(4);
    this.#view.setUint32(at, value, true);
  }

  f32(value: number): void {
    const at = this.room(4);
    this.#view.setFloat32(at, value, true);
  }

  u64(value: number): void {
    const at = this.room(8);
    this.#view.setBigUint64(at, BigInt(value), true);
  }

  text(value: string): void {
    const bytes = new TextEncoder().encode(value);
    this.u64(bytes.length);
    this.bytes(bytes);
  }

  bytes(bytes: Uint8Array): void {
    const at = this.room(bytes.length);
    this.#bytes.set(bytes, at);
  }

  align(to: number): void {
    this.room(Math.ceil(this.length / to) * to - this.length);
  }

  take(): Uint8Array {
    return this.#bytes.slice(0, this.length);
  }
}

/** The bytes of a GGUF file. */
export function ggufBytes(
  metadata: Readonly<Record<string, GgufEntry>>,
  tensors: readonly GgufTensor[],
  { version = 3, alignment = 32 } = {},
): Uint8Array {
  const writer = new Writer();
  writer.bytes(new TextEncoder().encode("GGUF"));
  writer.u32(version);
  writer.u64(tensors.length);
  writer.u64(Object.keys(metadata).length);
  for (const [key, entry] of Object.entries(metadata)) {
    writer.text(key);
    writeEntry(writer, entry);
  }
  let offset = 0;
  for (const { name, shape, format, bytes } of tensors) {
    writer.text(name);
    writer.u32(shape.length);
    for (const size of shape.toReversed()) writer.u64(size);
    writer.u32(format);
    writer.u64(offset);
    offset = Math.ceil((offset + bytes.length) / alignment) * alignment;
  }
  for (const { bytes } of tensors) {
    writer.align(alignment);
    writer.bytes(bytes);
  }
  return writer.take();
}

function writeEntry(writer: Writer, { type, value }: GgufEntry): void {
  switch (type) {
    case "string":
      writer.u32(types.string);
      return writer.text(value);
    case "strings":
      writer.u32(types.array);
      writer.u32(types.string);
      writer.u64(value.length);
      return value.forEach((text) => writer.text(text));
    case "i32s":
      writer.u32(types.array);
      writer.u32(types.i32);
      writer.u64(value.length);
      return value.forEach((number) => writer.u32(number));
    case "bool":
      writer.u32(types.bool);
      return writer.u8(value);
    default:
      writer.u32(types[type]);
      return writer[type](value);
  }
}
