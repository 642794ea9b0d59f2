import { dirname, join } from "node:path";
import { readFileSync } from "node:fs";
import { CheckpointError } from "./errors.ts";
import { FileReader, MappedFile } from "./mapped-file.ts";
import { storedFormat, type StoredFormatName, storedIn, type StoredTensor } from "./stored.ts";

const formats: Readonly<Record<string, StoredFormatName>> = {
  F64: "F64",
  F32: "F32",
  F16: "F16",
  BF16: "BF16",
  F8_E4M3: "F8_E4M3",
  F8_E5M2: "F8_E5M2",
  I64: "I64",
  I32: "I32",
  I16: "I16",
  I8: "I8",
  U8: "U8",
  BOOL: "BOOL",
};

/** What the format's own reader allows. */
const headerBytesMost = 100e6;

/** The tensors of a safetensors file (huggingface/safetensors, README). Errors: CheckpointError. */
export function openSafetensors(path: string): Map<string, StoredTensor> {
  const reader = new FileReader(new MappedFile(path));
  const headerBytes = reader.count("the length of the header", 1);
  if (headerBytes > headerBytesMost)
    throw reader.wrong(`its header has ${headerBytes} bytes, more than ${headerBytesMost}`);
  const at = reader.take(headerBytes, "the header");
  const header = parseObject(path, new TextDecoder().decode(reader.bytes.subarray(at, reader.at)));
  const start = reader.at;
  const tensors = new Map<string, StoredTensor>();
  for (const [name, entry] of Object.entries(header)) {
    if (name !== "__metadata__") tensors.set(name, tensorOf(reader, name, entry, start));
  }
  return tensors;
}

/**
 * The tensors of a folder: those of the files that `model.safetensors.index.json` names, else those
 * of `model.safetensors`. Errors: CheckpointError.
 */
export function openSafetensorsFolder(folder: string): Map<string, StoredTensor> {
  const indexPath = join(folder, "model.safetensors.index.json");
  const text = readTextIfThere(indexPath);
  if (text === undefined) return openSafetensors(join(folder, "model.safetensors"));
  const map = parseObject(indexPath, text)["weight_map"];
  if (!isObject(map))
    throw new CheckpointError(indexPath, "it has no weight_map", "fetch the folder again.");
  const shards = new Map<string, Map<string, StoredTensor>>();
  const tensors = new Map<string, StoredTensor>();
  for (const [name, file] of Object.entries(map)) {
    if (typeof file !== "string" || dirname(file) !== ".")
      throw new CheckpointError(
        indexPath,
        `the file of ${name} is ${JSON.stringify(file)}, not the name of a file beside it`,
        "fetch the folder again.",
      );
    let shard = shards.get(file);
    if (shard === undefined) shards.set(file, (shard = openSafetensors(join(folder, file))));
    const tensor = shard.get(name);
    if (tensor === undefined)
      throw new CheckpointError(
        join(folder, file),
        `tensor ${name} is not in it, though the index says so`,
        "fetch the folder again.",
      );
    tensors.set(name, tensor);
  }
  return tensors;
}

/** A JSON file's object. Errors: CheckpointError. */
export function readJson(path: string): Record<string, unknown> {
  const text = readTextIfThere(path);
  if (text === undefined)
    throw new CheckpointError(path, "it is missing", "fetch the whole folder.");
  return parseObject(path, text);
}

/** A text file; undefined where there is none. Errors: CheckpointError. */
export function readTextIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw new CheckpointError(path, `it cannot be read (${code})`, "give a file to read.", {
      cause: error,
    });
  }
}

function tensorOf(reader: FileReader, name: string, entry: unknown, start: number): StoredTensor {
  if (!isObject(entry)) throw reader.wrong(`the entry of tensor ${name} is no object`);
  const { dtype, shape, data_offsets: offsets } = entry;
  const known = typeof dtype === "string" ? formats[dtype] : undefined;
  if (known === undefined) {
    const read = Object.keys(formats).join(", ");
    throw reader.wrong(`tensor ${name} is of ${JSON.stringify(dtype)}, and ${read} are read`);
  }
  if (!isCounts(shape)) throw reader.wrong(`tensor ${name} has no shape`);
  if (!isCounts(offsets) || offsets.length !== 2)
    throw reader.wrong(`tensor ${name} has no data_offsets`);
  const format = storedFormat(known);
  const bytes = shape.reduce((product, size) => product * size, format.blockBytes);
  const [from, to] = offsets;
  const { file } = reader;
  const held = file.bytes - start;
  if (to > held || to - from !== bytes)
    throw reader.wrong(`tensor ${name} of ${bytes} bytes lies at ${from} to ${to} of ${held}`);
  return storedIn(file, { name, shape, format }, start + from, bytes);
}

function parseObject(path: string, text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (isObject(value)) return value;
  } catch (error) {
    throw new CheckpointError(path, `its JSON is damaged (${error})`, "fetch it again.", {
      cause: error,
    });
  }
  throw new CheckpointError(path, "its JSON is no object", "fetch it again.");
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}
