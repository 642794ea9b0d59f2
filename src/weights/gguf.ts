import { FileReader, MappedFile } from "./mapped-file.ts";
import {
  storedBytes,
  storedFormat,
  type StoredFormatName,
  storedIn,
  type StoredTensor,
} from "./stored.ts";

/** A value of a GGUF file's metadata. */
export type GgufValue = number | boolean | string | GgufValue[];

/** A GGUF file, versions 2 and 3 (ggml's docs/gguf.md): its metadata and its tensors. */
export interface GgufFile {
  readonly path: string;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
}

/** Formats by ggml's numbers. */
const formats: Readonly<Record<number, StoredFormatName>> = {
  0: "F32",
  1: "F16",
  2: "Q4_0",
  3: "Q4_1",
  8: "Q8_0",
  12: "Q4_K",
  14: "Q6_K",
  24: "I8",
  25: "I16",
  26: "I32",
  27: "I64",
  28: "F64",
  30: "BF16",
};

/** "GGUF" as a little-endian number. */
const magic = 0x46554747;
const dimsMost = 4;
/** Arrays may hold arrays; no writer goes deeper. */
const depthMost = 4;
/** Type, and one byte of value. */
const arrayElementLeast = 1;
/** Name, number of dims, one dim, format, offset. */
const tensorLeast = 8 + 4 + 8 + 4 + 8;
/** Key, type, one byte of value. */
const entryLeast = 8 + 4 + 1;

const scalars: Readonly<Record<number, (reader: FileReader, what: string) => GgufValue>> = {
  0: (reader, what) => reader.u8(what),
  1: (reader, what) => reader.i8(what),
  2: (reader, what) => reader.u16(what),
  3: (reader, what) => reader.i16(what),
  4: (reader, what) => reader.u32(what),
  5: (reader, what) => reader.i32(what),
  6: (reader, what) => reader.f32(what),
  7: (reader, what) => reader.u8(what) !== 0,
  8: (reader, what) => reader.text(what),
  10: (reader, what) => reader.u64(what),
  11: (reader, what) => reader.i64(what),
  12: (reader, what) => reader.f64(what),
};
const arrayType = 9;

/** Opens a GGUF file. Errors: CheckpointError. */
export function openGguf(path: string): GgufFile {
  const reader = new FileReader(new MappedFile(path));
  if (reader.u32("the magic number") !== magic) throw reader.wrong("it is no GGUF file");
  const version = reader.u32("the version");
  if (version !== 2 && version !== 3)
    throw reader.wrong(`its GGUF version is ${version}, of which 2 and 3 are read`);
  const tensorCount = reader.count("the number of tensors", tensorLeast);
  const entryCount = reader.count("the number of metadata entries", entryLeast);
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < entryCount; i++) {
    const key = reader.text(`metadata key ${i}`);
    if (metadata.has(key)) throw reader.wrong(`metadata key ${key} stands twice`);
    metadata.set(key, readValue(reader, reader.u32(`the type of ${key}`), key, 0));
  }
  return {
    path,
    metadata,
    tensors: readTensors(reader, tensorCount, alignmentOf(reader, metadata)),
  };
}

function readValue(reader: FileReader, type: number, key: string, depth: number): GgufValue {
  if (type in scalars) return scalars[type](reader, key);
  if (type !== arrayType) throw reader.wrong(`${key} has the unknown type ${type}`);
  if (depth === depthMost) throw reader.wrong(`${key} nests arrays deeper than ${depthMost}`);
  const elementType = reader.u32(`the element type of ${key}`);
  const count = reader.count(`the length of ${key}`, arrayElementLeast);
  return Array.from({ length: count }, () => readValue(reader, elementType, key, depth + 1));
}

function alignmentOf(reader: FileReader, metadata: ReadonlyMap<string, GgufValue>): number {
  const alignment = metadata.get("general.alignment") ?? 32;
  if (typeof alignment === "number" && alignment >= 8 && Number.isInteger(alignment / 8))
    return alignment;
  throw reader.wrong(`general.alignment is ${alignment}, not a multiple of 8`);
}

interface Described {
  readonly name: string;
  readonly shape: number[];
  readonly format: ReturnType<typeof storedFormat>;
  /** From where tensors begin. */
  readonly offset: number;
}

function readTensors(
  reader: FileReader,
  count: number,
  alignment: number,
): Map<string, StoredTensor> {
  const described = Array.from({ length: count }, () => describeTensor(reader, alignment));
  const start = Math.ceil(reader.at / alignment) * alignment;
  const tensors = new Map<string, StoredTensor>();
  for (const { name, shape, format, offset } of described) {
    const bytes = storedBytes({ shape, format });
    const from = start + offset;
    const { file } = reader;
    if (!(from + bytes <= file.bytes))
      throw reader.wrong(`tensor ${name} ends at byte ${from + bytes}, beyond the file's end`);
    if (tensors.has(name)) throw reader.wrong(`tensor ${name} stands twice`);
    tensors.set(name, storedIn(file, { name, shape, format }, from, bytes));
  }
  return tensors;
}

function describeTensor(reader: FileReader, alignment: number): Described {
  const name = reader.text("a tensor's name");
  const dims = reader.u32(`the number of dimensions of ${name}`);
  if (dims < 1 || dims > dimsMost)
    throw reader.wrong(`tensor ${name} has ${dims} dimensions, of which 1 to ${dimsMost} are read`);
  // ggml has the innermost first.
  const shape = Array.from({ length: dims }, () => reader.u64(`the shape of ${name}`)).reverse();
  const type = reader.u32(`the format of ${name}`);
  const known = formats[type];
  if (known === undefined) {
    const read = [...new Set(Object.values(formats))].join(", ");
    throw reader.wrong(`tensor ${name} is of ggml format ${type}, and ${read} are read`);
  }
  const format = storedFormat(known);
  if (shape[dims - 1] % format.blockElements !== 0)
    throw reader.wrong(
      `tensor ${name} has rows of ${shape[dims - 1]}, not blocks of ${format.blockElements}`,
    );
  const offset = reader.u64(`the offset of ${name}`);
  if (offset % alignment !== 0)
    throw reader.wrong(`tensor ${name} begins at ${offset}, not a multiple of ${alignment}`);
  return { name, shape, format, offset };
}
