import { OptionError } from "../errors.ts";

/** Element types, in the order of kernels/params/types.h: a dtype's code is its index. */
export const dtypes = [
  "f32",
  "f16",
  "bf16",
  "f8e4m3",
  "f8e5m2",
  "i8",
  "i32",
  "i64",
  "u8",
  "bool",
] as const;

/** One of {@link dtypes}. */
export type DType = (typeof dtypes)[number];

/** Bytes of one element, in the order of `dtypes`. */
const byteSizes = [4, 2, 2, 1, 1, 1, 4, 8, 1, 1];

// Each launch asks some times: a search of the list is slower.
const codes = ofEach((code) => code);
const bytesOf = ofEach((code) => byteSizes[code]);

function ofEach(value: (code: number) => number): Record<DType, number> {
  const entries = dtypes.map((dtype, code) => [dtype, value(code)] as const);
  return Object.fromEntries(entries) as Record<DType, number>;
}

/**
 * A binary float of fewer bits than f32. Codes (bits without the sign) rise with the magnitude, and
 * whatever would exceed `limit` becomes it.
 */
interface SmallFloat {
  mantissaBits: number;
  /** Exponent of the smallest normal number; subnormals share its quantum. */
  least: number;
  /** Largest code: infinity for bf16, the largest finite number for fp8, which saturates. */
  limit: number;
  nan: number;
  sign: number;
}

const bf16: SmallFloat = { mantissaBits: 7, least: -126, limit: 0x7f80, nan: 0x7fc0, sign: 0x8000 };
const f8e4m3: SmallFloat = { mantissaBits: 3, least: -6, limit: 0x7e, nan: 0x7f, sign: 0x80 };
const f8e5m2: SmallFloat = { mantissaBits: 2, least: -14, limit: 0x7b, nan: 0x7f, sign: 0x80 };

const f64 = new Float64Array(1);
const f64Bits = new Int32Array(f64.buffer);
const tables = new Map<SmallFloat, Float64Array>();

/** Code of a dtype in kernels/params/types.h. */
export function dtypeCode(dtype: DType): number {
  return codes[dtype] ?? -1;
}

/** Bytes of one element. */
export function dtypeBytes(dtype: DType): number {
  return bytesOf[dtype];
}

/** Throws an OptionError unless `value` names a dtype. */
export function requireDType(option: string, value: unknown): asserts value is DType {
  if (typeof value === "string" && Object.hasOwn(codes, value)) return;
  throw new OptionError(option, value, `one of ${dtypes.join(", ")}`, "name an element type.");
}

/** True for floats of 8 bits, which kernels widen before they multiply and keep with scales. */
export function isFp8(dtype: DType): boolean {
  return dtype === "f8e4m3" || dtype === "f8e5m2";
}

/** True for the dtypes that hold fractions. */
export function isFloat(dtype: DType): boolean {
  return dtypeCode(dtype) <= dtypeCode("f8e5m2");
}

/**
 * Writes numbers as elements of a dtype into bytes. Floats round once, to nearest even: f32, f16
 * and bf16 overflow to infinity; fp8 saturates to its largest finite number, infinities too; NaN
 * stays NaN. Integers cut towards zero and saturate, NaN is 0. bool is "not 0". i64 alone takes
 * bigints. Errors: OptionError when bytes has another length or the data another kind of number.
 */
export function encode(
  dtype: DType,
  data: ArrayLike<number> | ArrayLike<bigint>,
  bytes: Uint8Array<ArrayBuffer>,
): void {
  const wanted = data.length * dtypeBytes(dtype);
  if (bytes.length !== wanted)
    throw new OptionError("bytes", bytes, `${wanted} bytes`, "size it by dtypeBytes.");
  checkNumbers(dtype, data);
  if (bytes.byteOffset % dtypeBytes(dtype) !== 0) {
    const aligned = new Uint8Array(wanted);
    encode(dtype, data, aligned);
    return bytes.set(aligned);
  }
  if (dtype === "i64") return encodeI64(data, bytes);
  const numbers = data as ArrayLike<number>;
  switch (dtype) {
    case "f32":
      return new Float32Array(bytes.buffer, bytes.byteOffset, data.length).set(numbers);
    case "f16":
      return new Float16Array(bytes.buffer, bytes.byteOffset, data.length).set(numbers);
    case "bf16":
      return encodeSmall(bf16, numbers, new Uint16Array(bytes.buffer, bytes.byteOffset));
    case "f8e4m3":
      return encodeSmall(f8e4m3, numbers, bytes);
    case "f8e5m2":
      return encodeSmall(f8e5m2, numbers, bytes);
    case "bool":
      for (let i = 0; i < data.length; i++) bytes[i] = numbers[i] === 0 ? 0 : 1;
      return;
    default:
      encodeInteger(dtype, numbers, bytes);
  }
}

/**
 * The elements in `bytes` as numbers: exact, but for i64 beyond 2^53. Errors: OptionError when the
 * bytes are no whole number of elements.
 */
export function decode(dtype: DType, bytes: Uint8Array<ArrayBuffer>): Float64Array<ArrayBuffer> {
  const count = bytes.length / dtypeBytes(dtype);
  if (!Number.isInteger(count))
    throw new OptionError("bytes", bytes, `whole ${dtype} elements`, "pass all bytes.");
  if (bytes.byteOffset % dtypeBytes(dtype) !== 0) return decode(dtype, bytes.slice());
  const { buffer, byteOffset } = bytes;
  switch (dtype) {
    case "f32":
      return new Float64Array(new Float32Array(buffer, byteOffset, count));
    case "f16":
      return new Float64Array(new Float16Array(buffer, byteOffset, count));
    case "bf16":
      return decodeBf16(new Uint16Array(buffer, byteOffset, count));
    case "f8e4m3":
      return lookUp(f8e4m3, bytes);
    case "f8e5m2":
      return lookUp(f8e5m2, bytes);
    case "i8":
      return new Float64Array(new Int8Array(buffer, byteOffset, count));
    case "i32":
      return new Float64Array(new Int32Array(buffer, byteOffset, count));
    case "i64":
      return Float64Array.from(new BigInt64Array(buffer, byteOffset, count), Number);
    case "u8":
      return new Float64Array(bytes);
    case "bool":
      return Float64Array.from(bytes, (byte) => (byte === 0 ? 0 : 1));
  }
}

/** Rounds each number to the dtype and back: what a kernel that stores it would read again. */
export function roundTo(dtype: DType, data: ArrayLike<number>): Float64Array<ArrayBuffer> {
  const bytes = new Uint8Array(data.length * dtypeBytes(dtype));
  encode(dtype, data, bytes);
  return decode(dtype, bytes);
}

/**
 * Rounds straight from f64. A number counted in its quantum (the value of its last mantissa bit) is
 * below 2^52, where adding and subtracting 2^52 rounds to an even integer; that integer plus the
 * exponent is the code, carries included.
 */
function encodeSmall(
  format: SmallFloat,
  data: ArrayLike<number>,
  out: Uint16Array | Uint8Array,
): void {
  const { mantissaBits, least, limit, nan, sign } = format;
  for (let i = 0; i < data.length; i++) {
    const x = data[i];
    f64[0] = x;
    const high = f64Bits[1];
    const exponent = Math.max(((high >>> 20) & 0x7ff) - 1023, least);
    const quanta = Math.abs(x) * powerOfTwo(mantissaBits - exponent);
    const code =
      quanta + 4503599627370496 - 4503599627370496 + (exponent - least) * 2 ** mantissaBits;
    out[i] = (x === x ? Math.min(code, limit) : nan) | (high < 0 ? sign : 0);
  }
}

/** 2 ** exponent; Math.pow is several times slower. */
function powerOfTwo(exponent: number): number {
  return exponent < -1022 || exponent > 1023 ? 2 ** exponent : powers[exponent + 1022];
}

const powers = Float64Array.from({ length: 2046 }, (_, i) => 2 ** (i - 1022));

function encodeInteger(
  dtype: DType,
  data: ArrayLike<number>,
  bytes: Uint8Array<ArrayBuffer>,
): void {
  const { buffer, byteOffset } = bytes;
  const bits = dtypeBytes(dtype) * 8;
  const least = dtype === "u8" ? 0 : -(2 ** (bits - 1));
  const most = least + 2 ** bits - 1;
  const out = dtype === "i32" ? new Int32Array(buffer, byteOffset, data.length) : bytes;
  for (let i = 0; i < data.length; i++)
    out[i] = Math.max(least, Math.min(most, Math.trunc(data[i]) || 0));
}

/** Views hold numbers of one kind; other lists may hold anything. */
function checkNumbers(dtype: DType, data: ArrayLike<unknown>): void {
  const count = ArrayBuffer.isView(data) ? Math.min(1, data.length) : data.length;
  for (let i = 0; i < count; i++) {
    if (typeof data[i] === "number" || (typeof data[i] === "bigint" && dtype === "i64")) continue;
    const fix = "convert others by Number().";
    throw new OptionError(`data[${i}]`, data[i], `a number for ${dtype}`, fix);
  }
}

function encodeI64(
  data: ArrayLike<number> | ArrayLike<bigint>,
  bytes: Uint8Array<ArrayBuffer>,
): void {
  const out = new BigInt64Array(bytes.buffer, bytes.byteOffset, data.length);
  const most = 2n ** 63n - 1n;
  for (let i = 0; i < data.length; i++) {
    const value = data[i];
    if (typeof value === "number" && !Number.isFinite(value)) {
      out[i] = value > 0 ? most : value < 0 ? -most - 1n : 0n;
      continue;
    }
    const whole = typeof value === "bigint" ? value : BigInt(Math.trunc(value));
    out[i] = whole > most ? most : whole < -most - 1n ? -most - 1n : whole;
  }
}

function decodeBf16(codes: Uint16Array): Float64Array<ArrayBuffer> {
  const bits = new Uint32Array(codes.length);
  for (let i = 0; i < codes.length; i++) bits[i] = codes[i] << 16;
  return new Float64Array(new Float32Array(bits.buffer));
}

function lookUp(format: SmallFloat, bytes: Uint8Array): Float64Array<ArrayBuffer> {
  let table = tables.get(format);
  if (table === undefined) tables.set(format, (table = smallTable(format)));
  const out = new Float64Array(bytes.length);
  for (let i = 0; i < bytes.length; i++) out[i] = table[bytes[i]];
  return out;
}

/** Values of all 256 codes; codes past the limit are NaN, but e5m2's 0x7c, which is infinity. */
function smallTable(format: SmallFloat): Float64Array {
  const { mantissaBits, least, limit } = format;
  const table = new Float64Array(256);
  for (let code = 0; code < 128; code++) {
    const exponent = code >> mantissaBits;
    const fraction = (code & (2 ** mantissaBits - 1)) / 2 ** mantissaBits;
    let value =
      exponent === 0 ? fraction * 2 ** least : (1 + fraction) * 2 ** (exponent - 1 + least);
    if (code > limit) value = code === 0x7c ? Infinity : NaN;
    table[code] = value;
    table[code + 128] = -value;
  }
  return table;
}

/** What a tensor's elements are in JavaScript; bf16 and fp8 are their bits. */
export type TypedArray =
  Float32Array | Float16Array | Uint16Array | Uint8Array | Int8Array | Int32Array | BigInt64Array;

/** Elements that a buffer holds from a byte on, by default all, as the typed array of the dtype. */
export function typedArrayOf(
  dtype: DType,
  buffer: ArrayBuffer,
  byteOffset = 0,
  elements?: number,
): TypedArray {
  switch (dtype) {
    case "f32":
      return new Float32Array(buffer, byteOffset, elements);
    case "f16":
      return new Float16Array(buffer, byteOffset, elements);
    case "bf16":
      return new Uint16Array(buffer, byteOffset, elements);
    case "i8":
      return new Int8Array(buffer, byteOffset, elements);
    case "i32":
      return new Int32Array(buffer, byteOffset, elements);
    case "i64":
      return new BigInt64Array(buffer, byteOffset, elements);
    default:
      return new Uint8Array(buffer, byteOffset, elements);
  }
}
