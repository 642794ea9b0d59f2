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

/** The size that a zstd frame's header names (RFC 8878, 3.1.1.1); undefined when it names none. */
function zstdContentBytes(frame: Uint8Array): number | undefined {
  if (frame.length < 6) return undefined;
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  if (view.getUint32(0, true) !== 0xfd2fb528) return undefined;
  const descriptor = frame[4];
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3];
  const at = 5 + (isSingleSegment ? 0 : 1) + dictionaryBytes;
  const sizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6];
  if (sizeBytes === 0 || at + sizeBytes > frame.length) return undefined;
  if (sizeBytes === 1) return frame[at];
  if (sizeBytes === 2) return view.getUint16(at, true) + 256;
  if (sizeBytes === 4) return view.getUint32(at, true);
  return view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
}

/** One LZ4 block: tokens of literals and of matches at most 65535 bytes back. */
function unpackLz4(packed: Uint8Array, rawBytes: number): Uint8Array {
  const raw = new Uint8Array(rawBytes);
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
    if (from + literals > packed.length || to + literals > rawBytes)
      throw new UnpackError("its LZ4 block is damaged");
    raw.set(packed.subarray(from, from + literals), to);
    from += literals;
    to += literals;
    if (from === packed.length) break;
    const back = packed[from] | ((packed[from + 1] ?? 0) << 8);
    from += 2;
    const matched = lengthAt(token & 15) + 4;
    if (back === 0 || back > to || to + matched > rawBytes)
      throw new UnpackError("its LZ4 block is damaged");
    // A match may reach into what it writes: then it repeats with that period.
    if (back >= matched) raw.copyWithin(to, to - back, to - back + matched);
    else for (let i = 0; i < matched; i++) raw[to + i] = raw[to + i - back];
    to += matched;
  }
  if (to !== rawBytes) throw new UnpackError(`it unpacks to ${to} bytes`);
  return raw;
}
