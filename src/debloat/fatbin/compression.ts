/** How the images of fat binaries are packed: not at all, as an LZ4 block, or as a zstd frame. */
export type Compression = "none" | "lz4" | "zstd";

/** Images beyond this are refused; the largest of CUDA 13 have a tenth of it. */
const rawBytesMax = 2 ** 30;
/** No image is packed tighter: a smaller one that claims more was made to take memory. */
const ratioMax = 4096;

/** What is wrong with packed bytes. */
export class UnpackError extends Error {}

/**
 * Unpacks an image.
 * @param rawBytes what its header says it unpacks to
 * @throws UnpackError when it does not
 */
export function unpack(packed: Uint8Array, scheme: Compression, rawBytes: number): Uint8Array {
  if (scheme === "none") return packed;
  if (rawBytes > rawBytesMax || rawBytes > ratioMax * packed.length + 4096)
    throw new UnpackError(`${packed.length} packed bytes claim to hold ${rawBytes}`);
  return scheme === "lz4" ? unpackLz4(packed, rawBytes) : unpackZstd(packed, rawBytes);
}

/** Packs an image as a zstd frame that names its size. */
export function packZstd(raw: Uint8Array, level: number): Uint8Array {
  return Bun.zstdCompressSync(raw as Uint8Array<ArrayBuffer>, { level });
}

function unpackZstd(packed: Uint8Array, rawBytes: number): Uint8Array {
  const claimed = zstdContentBytes(packed);
  if (claimed !== rawBytes) throw new UnpackError(`its frame holds ${claimed} bytes`);
  let raw: Uint8Array;
  try {
    raw = Bun.zstdDecompressSync(packed as Uint8Array<ArrayBuffer>);
  } catch (cause) {
    throw new UnpackError("its zstd frame is damaged", { cause });
  }
  if (raw.length !== rawBytes) throw new UnpackError(`it unpacks to ${raw.length} bytes`);
  return raw;
}

/** The header of a zstd frame (RFC 8878, 3.1.1.1). */
interface FrameHeader {
  readonly bytes: number;
  /** What it unpacks to; undefined when the header does not say. */
  readonly contentBytes: number | undefined;
  readonly hasChecksum: boolean;
}

function readFrameHeader(frame: Uint8Array): FrameHeader | undefined {
  if (frame.length < 14) return undefined;
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  if (view.getUint32(0, true) !== 0xfd2fb528) return undefined;
  const descriptor = frame[4];
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3];
  const at = 5 + (isSingleSegment ? 0 : 1) + dictionaryBytes;
  const sizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6];
  if (at + sizeBytes > frame.length || (descriptor & 8) !== 0) return undefined;
  const sizes: Record<number, () => number | undefined> = {
    0: () => undefined,
    1: () => frame[at],
    2: () => view.getUint16(at, true) + 256,
    4: () => view.getUint32(at, true),
    8: () => view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true),
  };
  return {
    bytes: at + sizeBytes,
    contentBytes: sizes[sizeBytes](),
    hasChecksum: (descriptor & 4) !== 0,
  };
}

/** The size that a zstd frame's header names; undefined when it names none. */
function zstdContentBytes(frame: Uint8Array): number | undefined {
  return readFrameHeader(frame)?.contentBytes;
}

/** Blocks of zstd: raw, one byte over and over, compressed. */
const blockKinds = { raw: 0, repeated: 1, compressed: 2 };
const blockHeaderBytes = 3;
const blockBytesMax = 2 ** 17;

function blockAt(data: Uint8Array, at: number) {
  const word = data[at] | (data[at + 1] << 8) | (data[at + 2] << 16);
  const kind = (word >> 1) & 3;
  const bytes = kind === blockKinds.repeated ? 1 : word >> 3;
  return { isLast: (word & 1) !== 0, kind, end: at + blockHeaderBytes + bytes };
}

/** The size of the zstd frame that bytes begin with, and of what it unpacks to; else undefined. */
export function zstdFrame(data: Uint8Array): { bytes: number; rawBytes: number } | undefined {
  const header = readFrameHeader(data);
  if (header?.contentBytes === undefined) return undefined;
  for (let at = header.bytes; at + blockHeaderBytes <= data.length;) {
    const { isLast, kind, end } = blockAt(data, at);
    if (kind > blockKinds.compressed || end - at > blockHeaderBytes + blockBytesMax) break;
    at = end;
    if (!isLast) continue;
    const bytes = at + (header.hasChecksum ? 4 : 0);
    return bytes > data.length ? undefined : { bytes, rawBytes: header.contentBytes };
  }
  return undefined;
}

/** What the first block of a zstd frame unpacks to: enough to see what the whole is. */
export function firstOfZstd(frame: Uint8Array): Uint8Array | undefined {
  const header = readFrameHeader(frame);
  if (header === undefined) return undefined;
  const { end } = blockAt(frame, header.bytes);
  // A copy even of a Buffer, whose slice is none.
  const block = Uint8Array.from(frame.subarray(header.bytes, end));
  block[0] |= 1;
  // No size, no checksum, and a window of 128 KiB, which holds any block.
  const head = [0x28, 0xb5, 0x2f, 0xfd, 0, 8 * 7];
  try {
    return Bun.zstdDecompressSync(Buffer.concat([Uint8Array.from(head), block]));
  } catch {
    return undefined;
  }
}

/** From here on bytes are copied by a call, below it by words. */
const longBytes = 128;
const wordBytes = 4;

/** One LZ4 block: tokens of literals and of matches at most 65535 bytes back. */
function unpackLz4(packed: Uint8Array, rawBytes: number): Uint8Array {
  // Words may be written past the end of what they are copied for: into what comes next.
  const raw = new Uint8Array(rawBytes + wordBytes);
  const target = new DataView(raw.buffer);
  const source = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  const lastWord = packed.length - wordBytes;
  let from = 0;
  let to = 0;
  const lengthAt = (nibble: number): number => {
    let length = nibble;
    if (nibble !== 15) return length;
    for (;;) {
      const more = packed[from++];
      if (more === undefined) throw new UnpackError("its LZ4 block is cut short");
      length += more;
      if (more !== 255) return length;
    }
  };
  while (from < packed.length) {
    const token = packed[from++];
    const literals = lengthAt(token >> 4);
    const literalsEnd = from + literals;
    if (literalsEnd > packed.length || to + literals > rawBytes)
      throw new UnpackError("its LZ4 block is damaged");
    if (literals > longBytes) raw.set(packed.subarray(from, literalsEnd), to);
    else {
      let at = to;
      for (; from < literalsEnd && from <= lastWord; from += wordBytes, at += wordBytes)
        target.setInt32(at, source.getInt32(from, true), true);
      while (from < literalsEnd) raw[at++] = packed[from++];
    }
    from = literalsEnd;
    to += literals;
    if (from === packed.length) break;
    const back = packed[from] | ((packed[from + 1] ?? 0) << 8);
    from += 2;
    const matched = lengthAt(token & 15) + 4;
    if (back === 0 || back > to || to + matched > rawBytes)
      throw new UnpackError("its LZ4 block is damaged");
    const end = to + matched;
    // A match may reach into what it writes: then it repeats with that period.
    if (matched > longBytes && back >= matched) raw.copyWithin(to, to - back, end - back);
    else if (back >= wordBytes)
      for (let at = to; at < end; at += wordBytes)
        target.setInt32(at, target.getInt32(at - back, true), true);
    else for (let at = to; at < end; at++) raw[at] = raw[at - back];
    to = end;
  }
  if (to !== rawBytes) throw new UnpackError(`it unpacks to ${to} bytes`);
  return raw.subarray(0, rawBytes);
}
