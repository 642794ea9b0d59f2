/**
 * Device code outside the sections of fat binaries: libraries keep containers, cubins and PTX among
 * their data too, and load them themselves. Found by what the bytes are, in whatever section.
 */
import { Bytes, latin1 } from "../bytes.ts";
import { type Elf, elfHeaderBytes, machineCuda, readElf } from "../elf/elf.ts";
import { DebloatError } from "../../errors.ts";
import { releasePages } from "../../ffi/mapping.ts";
import { type Compression, firstOfZstd, zstdFrame } from "./compression.ts";
import { type Container, type EntryKind, readContainer } from "./fatbin.ts";

/** How something begins, after how many bytes of it that are too common to be searched for. */
interface Kind {
  readonly needle: Buffer;
  readonly skip: number;
  /** What begins at an offset, or undefined: bytes that look alike are no error. */
  readonly read: (bytes: Bytes, at: number) => Container | undefined;
}

const kinds: readonly Kind[] = [
  {
    // The magic without its first byte, a letter that texts are full of, the version, the size.
    needle: Buffer.from([0xed, 0x55, 0xba, 1, 0, 16, 0]),
    skip: 1,
    read: (bytes, at) => {
      const container = readContainer(bytes, at);
      return typeof container === "string" || container.entries.length === 0
        ? undefined
        : container;
    },
  },
  { needle: Buffer.from([0x28, 0xb5, 0x2f, 0xfd]), skip: 0, read: readFrame },
  { needle: Buffer.from("\x7fELF\x02\x01\x01", "latin1"), skip: 0, read: readBareCubin },
  { needle: Buffer.from(".version "), skip: 0, read: readBarePtx },
];

/** How much of a section is searched before its memory is given back. */
const windowBytes = 2 ** 24;
const needleBytesMax = Math.max(...kinds.map(({ needle, skip }) => needle.length + skip));

/**
 * All device code among bytes that are no section of fat binaries, by ascending offset. An image
 * that stands alone is a container without a header, of one entry without a header.
 */
export function findLoose(data: Uint8Array, file: string): Container[] {
  const bytes = new Bytes(data, file);
  const found: Container[] = [];
  let from = 0;
  for (let start = 0; start < data.length; start += windowBytes) {
    const end = Math.min(data.length, start + windowBytes);
    // What begins at the window's end ends behind it.
    const window = data.subarray(start, end + needleBytesMax - 1);
    for (const [at, kind] of beginnings(window)) {
      if (start + at < from || start + at >= end) continue;
      const container = kind.read(bytes, start + at);
      if (container === undefined) continue;
      found.push(container);
      from = container.offset + container.bytes;
    }
    releasePages(window);
  }
  return found;
}

/** Where something may begin, by ascending offset. */
function beginnings(window: Uint8Array): [at: number, kind: Kind][] {
  const buffer = Buffer.from(window.buffer, window.byteOffset, window.byteLength);
  const found: [number, Kind][] = [];
  for (const kind of kinds) {
    const { needle, skip } = kind;
    for (let at = buffer.indexOf(needle, skip); at >= 0; at = buffer.indexOf(needle, at + 1))
      found.push([at - skip, kind]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}

function alone(offset: number, bytes: number, image: Image): Container {
  const entry = { offset, headerBytes: 0, paddedBytes: bytes, packedBytes: bytes };
  const rest = { kindCode: 0, variant: "", unknownFlags: 0 } as const;
  return { offset, headerBytes: 0, bytes, entries: [{ ...entry, ...rest, ...image }] };
}

interface Image {
  readonly kind: EntryKind;
  readonly compression: Compression;
  readonly rawBytes: number;
  readonly arch: number;
}

/** A zstd frame that unpacks to a cubin. */
function readFrame(bytes: Bytes, at: number): Container | undefined {
  const frame = zstdFrame(bytes.data.subarray(at));
  if (frame === undefined || frame.rawBytes < elfHeaderBytes) return undefined;
  const head = firstOfZstd(bytes.data.subarray(at, at + frame.bytes));
  const arch = head === undefined ? undefined : archOfCubin(head);
  if (arch === undefined) return undefined;
  const image = { kind: "cubin", compression: "zstd", rawBytes: frame.rawBytes, arch } as const;
  return alone(at, frame.bytes, image);
}

function readBareCubin(bytes: Bytes, at: number): Container | undefined {
  const data = bytes.data.subarray(at);
  const arch = archOfCubin(data);
  if (arch === undefined) return undefined;
  try {
    const size = bytesOfElf(readElf(new Bytes(data, bytes.file)));
    return alone(at, size, { kind: "cubin", compression: "none", rawBytes: size, arch });
  } catch (error) {
    if (error instanceof DebloatError) return undefined;
    throw error;
  }
}

/** Where the last of a file's tables and sections ends. */
function bytesOfElf(elf: Elf): number {
  return Math.max(
    elf.sectionsOffset + 64 * elf.sections.length,
    elf.segmentsOffset + 56 * elf.segments.length,
    ...elf.sections.map(({ offset, fileBytes }) => (fileBytes === 0 ? 0 : offset + fileBytes)),
  );
}

/** The architecture in an ELF header of CUDA's, by the ABI that says where it is. */
function archOfCubin(data: Uint8Array): number | undefined {
  if (data.length < elfHeaderBytes) return undefined;
  const view = new DataView(data.buffer, data.byteOffset, elfHeaderBytes);
  if (view.getUint32(0, true) !== 0x464c457f || view.getUint16(18, true) !== machineCuda)
    return undefined;
  const flags = view.getUint32(48, true);
  const [osAbi, abiInFlags] = [data[7], 0x41];
  return osAbi === abiInFlags ? (flags >>> 8) & 0xff : flags & 0xff;
}

const ptxHead = /^\.version \d+\.\d+\s+\.target (?:sm|compute)_(\d+)/;
/** Of a text that begins before its directives: what compilers say of themselves. */
const commentBytesMax = 4096;
const ptxBytesMax = 2 ** 28;

/** A text of PTX, from the zero byte before it to the one after. */
function readBarePtx(bytes: Bytes, at: number): Container | undefined {
  const { data } = bytes;
  const head = ptxHead.exec(latin1(data.subarray(at, at + 96)));
  if (head === null) return undefined;
  const before = data.subarray(Math.max(0, at - commentBytesMax), at);
  const comment = before.length - 1 - before.lastIndexOf(0);
  const isComment = /^(?:\s|\/\/[^\n]*\n)*$/.test(latin1(before.subarray(before.length - comment)));
  const end = data.subarray(at, at + ptxBytesMax).indexOf(0);
  if (end < 0) return undefined;
  const start = isComment ? at - comment : at;
  const size = at + end - start;
  const image = { kind: "ptx", compression: "none", rawBytes: size } as const;
  return alone(start, size, { ...image, arch: Number(head[1]) });
}
