/**
 * Fat binaries: containers of images for several architectures, as nvcc lays them one after another
 * into a section. Only headers are read here; images stay as they are.
 */
import { Bytes, damage } from "../bytes.ts";
import { type Compression, unpack, UnpackError } from "./compression.ts";

/** What an entry holds; unknown numbers are kept as they are. */
export type EntryKind = "ptx" | "cubin" | "lto" | "unknown";

/** One image of a container. */
export interface Entry {
  /** From the start of the section. */
  readonly offset: number;
  readonly headerBytes: number;
  /** Bytes after the header, padding included. */
  readonly paddedBytes: number;
  readonly kind: EntryKind;
  /** The kind as its number. */
  readonly kindCode: number;
  readonly compression: Compression;
  /** Bytes after the header, without padding. */
  readonly packedBytes: number;
  readonly rawBytes: number;
  /** 90 for sm_90. */
  readonly arch: number;
  /** "a" runs on exactly this architecture, "f" on its family. */
  readonly variant: "" | "a" | "f";
  /** Flag bits that are not known here. */
  readonly unknownFlags: number;
}

/** A container: a header, then entries. */
export interface Container {
  /** From the start of the section. */
  readonly offset: number;
  readonly headerBytes: number;
  /** Header and entries. */
  readonly bytes: number;
  readonly entries: readonly Entry[];
}

/** A run of a section that holds no container; padding between containers is left out. */
export interface Opaque {
  readonly offset: number;
  readonly bytes: number;
  readonly reason: string;
}

/** What a section of fat binaries holds. */
export interface Fatbins {
  readonly containers: readonly Container[];
  readonly opaque: readonly Opaque[];
}

const containerMagic = 0xba55ed50;
const containerHeaderBytes = 16;
const entryHeaderBytesMin = 64;
const flag = { lz4: 0x2000, zstd: 0x8000, encrypted: 0x10000, a: 0x100000, f: 0x200000 };
/** 64-bit, debug, CUDA, OpenCL, three systems, and that a block about compatibility follows. */
const plainFlags = 0x0100007f;
const knownFlags = Object.values(flag).reduce((all, bit) => all | bit, plainFlags);
const kinds = new Map<number, EntryKind>([
  [1, "ptx"],
  [2, "cubin"],
  [8, "lto"],
]);

/** Bytes of a section, there or read when they are asked for. */
export type Source = Pick<Uint8Array, "subarray">;

/** Reads the containers of a section; what cannot be read is opaque, never an error. */
export function readFatbins(section: Uint8Array, file: string): Fatbins {
  const bytes = new Bytes(section, file);
  const containers: Container[] = [];
  const opaque: Opaque[] = [];
  for (let at = 0; at < section.length;) {
    const next = skipPadding(section, at);
    if (next === section.length) break;
    const container = readContainer(bytes, next);
    if (typeof container === "string") {
      opaque.push({ offset: next, bytes: section.length - next, reason: container });
      break;
    }
    containers.push(container);
    at = container.offset + container.bytes;
  }
  return { containers, opaque };
}

/** The next byte that is not zero, back to a multiple of 8 from where padding began. */
function skipPadding(section: Uint8Array, at: number): number {
  let next = at;
  while (next < section.length && section[next] === 0) next++;
  return next === section.length ? next : at + 8 * Math.floor((next - at) / 8);
}

/** A container, or why it is none. */
export function readContainer(bytes: Bytes, at: number): Container | string {
  if (at + containerHeaderBytes > bytes.length) return "too short for a container";
  if (bytes.u32(at) !== containerMagic) return `no container begins at offset ${at}`;
  const version = bytes.u16(at + 4);
  const headerBytes = bytes.u16(at + 6);
  if (version !== 1 || headerBytes !== containerHeaderBytes)
    return `a container of version ${version} with a header of ${headerBytes} bytes`;
  const end = at + headerBytes + sizeAt(bytes, at + 8);
  if (end > bytes.length) return `the container at offset ${at} is cut short`;
  const entries: Entry[] = [];
  for (let next = at + headerBytes; next < end;) {
    const entry = readEntry(bytes, next, end);
    if (typeof entry === "string") return entry;
    entries.push(entry);
    next = entry.offset + entry.headerBytes + entry.paddedBytes;
  }
  return { offset: at, headerBytes, bytes: end - at, entries };
}

function readEntry(bytes: Bytes, at: number, end: number): Entry | string {
  const damaged = `the entry at offset ${at} is cut short`;
  if (at + entryHeaderBytesMin > end) return damaged;
  const kindCode = bytes.u16(at);
  const headerBytes = bytes.u32(at + 4);
  const paddedBytes = sizeAt(bytes, at + 8);
  const compressedBytes = bytes.u32(at + 16);
  if (headerBytes < entryHeaderBytesMin || at + headerBytes + paddedBytes > end) return damaged;
  if (compressedBytes > paddedBytes) return damaged;
  const flags = bytes.u32(at + 40);
  const compression = flags & flag.zstd ? "zstd" : flags & flag.lz4 ? "lz4" : "none";
  const isPacked = compression !== "none";
  return {
    offset: at,
    headerBytes,
    paddedBytes,
    kindCode,
    compression,
    kind: flags & flag.encrypted && kindCode !== 8 ? "unknown" : (kinds.get(kindCode) ?? "unknown"),
    packedBytes: isPacked ? compressedBytes : paddedBytes,
    rawBytes: isPacked ? sizeAt(bytes, at + 56) : paddedBytes,
    arch: bytes.u32(at + 28),
    variant: flags & flag.a ? "a" : flags & flag.f ? "f" : "",
    unknownFlags: (flags & ~knownFlags) >>> 0,
  };
}

/** A size of 64 bits; one that no file has becomes larger than any. */
function sizeAt(bytes: Bytes, at: number): number {
  const high = bytes.u32(at + 4);
  return high >= 2 ** 21 ? Number.MAX_SAFE_INTEGER : high * 2 ** 32 + bytes.u32(at);
}

/**
 * The image of an entry as the driver sees it; undefined for kinds whose image is not plain.
 * @throws DebloatError when it does not unpack
 */
export function imageOf(section: Source, entry: Entry, file: string): Uint8Array | undefined {
  if (entry.kind !== "cubin" && entry.kind !== "ptx") return undefined;
  const at = entry.offset + entry.headerBytes;
  try {
    return unpack(section.subarray(at, at + entry.packedBytes), entry.compression, entry.rawBytes);
  } catch (cause) {
    if (!(cause instanceof UnpackError)) throw cause;
    const reason = `the image at offset ${entry.offset} of its fat binaries: ${cause.message}`;
    throw damage(file, reason);
  }
}

/**
 * Gives the memory of an image back that was unpacked, and that nothing reads any more. Left to the
 * collector, gigabytes pile up, and each image takes pages that the system has to clear.
 */
export function discardImage({ compression }: Entry, image: Uint8Array): void {
  if (compression !== "none") (image.buffer as ArrayBuffer).transfer(0);
}

/** The entry's header for another image of the same kind: an image packed by zstd, or as it is. */
export function entryHeader(
  section: Source,
  entry: Entry,
  packedBytes: number,
  rawBytes: number,
  isPacked: boolean,
): Uint8Array {
  // A copy even of a Buffer, whose slice is none.
  const header = Uint8Array.from(section.subarray(entry.offset, entry.offset + entry.headerBytes));
  const view = new DataView(header.buffer);
  const flags = view.getUint32(40, true) & ~(flag.lz4 | flag.zstd);
  view.setBigUint64(8, BigInt(paddedTo8(packedBytes)), true);
  view.setUint32(16, isPacked ? packedBytes : 0, true);
  view.setUint32(40, isPacked ? flags | flag.zstd : flags, true);
  view.setBigUint64(56, BigInt(isPacked ? rawBytes : 0), true);
  return header;
}

/** The header of a container whose entries take `entryBytes`. */
export function containerHeader(entryBytes: number): Uint8Array {
  const header = new Uint8Array(containerHeaderBytes);
  const view = new DataView(header.buffer);
  view.setUint32(0, containerMagic, true);
  view.setUint16(4, 1, true);
  view.setUint16(6, containerHeaderBytes, true);
  view.setBigUint64(8, BigInt(entryBytes), true);
  return header;
}

/** Entries and containers begin at multiples of 8. */
export function paddedTo8(bytes: number): number {
  return 8 * Math.ceil(bytes / 8);
}

/** How people write an entry's architecture: sm_90a, compute_120, lto_75. */
export function archName({ kind, arch, variant }: Entry): string {
  const prefix = { cubin: "sm", ptx: "compute", lto: "lto", unknown: "unknown" }[kind];
  return `${prefix}_${arch}${variant}`;
}
