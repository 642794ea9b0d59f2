/**
 * A sidecar holds what a shrunk library lacks, so that the original comes back bit for bit, and the
 * removed pages of host and device code such that a program can map them straight from it.
 *
 * File, little-endian; a page is 4096 bytes, offsets count from the file's start:
 *
 *     0    8   magic "FBSIDE\0\1"
 *     8    8   bytes of the original
 *     16   8   bytes of the shrunk library
 *     24   32  SHA-256 of the original
 *     56   32  SHA-256 of the shrunk library
 *     88   8   pageTableOffset
 *     96   8   pageTableCount
 *     104  8   offset of the index
 *     112  8   bytes of the index
 *     4096     removed pages, each run at a multiple of 4096
 *     ...      everything else that was removed or changed
 *     ...      page table: {u64 vaddr, u64 bytes, u64 fileOffset}, multiples of 4096, by ascending
 *              vaddr; to vaddr the rights of its segment are added: 1 execute, 2 write, 4 read
 *     ...      index: JSON, see SidecarIndex
 *
 * A program finds the sidecar of a library as `<build id>.side` in the folders that
 * FLASHBUN_SIDECARS lists, separated by colons.
 */
import { DebloatError } from "../../errors.ts";
import { Bytes, latin1, Patch } from "../bytes.ts";

/** Bytes before the first run of a sidecar. */
export const sidecarHeaderBytes = 4096;
/** What a sidecar begins with. */
const sidecarMagic = "FBSIDE\0\x01";

/** A run of the original: `from` says which file holds it now, at which offset. */
export type Piece = [from: "shrunk" | "sidecar", offset: number, bytes: number];

/**
 * A run of removed pages: where it was mapped, where the sidecar holds it, and its rights (1
 * execute, 2 write, 4 read).
 */
export type PageRun = [address: number, bytes: number, fileOffset: number, rights: number];

/** The index of a sidecar, JSON. */
export interface SidecarIndex {
  /** Name of the library's file. */
  name: string;
  buildId: string | null;
  /** Permissions of the original. */
  mode: number;
  /** The original from its start to its end. */
  pieces: Piece[];
}

/** A sidecar as read; pieces are checked to make up the original. */
export interface Sidecar extends SidecarIndex {
  originalBytes: number;
  shrunkBytes: number;
  originalHash: string;
  shrunkHash: string;
  pages: PageRun[];
}

/** The fixed part at the start of a sidecar. */
export function sidecarHeader(
  sidecar: Sidecar,
  pageTableOffset: number,
  indexOffset: number,
  indexBytes: number,
): Uint8Array {
  const header = new Patch(new Uint8Array(sidecarHeaderBytes));
  header.bytes.set(Buffer.from(sidecarMagic, "latin1"));
  header.u64(8, sidecar.originalBytes).u64(16, sidecar.shrunkBytes);
  header.bytes.set(Buffer.from(sidecar.originalHash, "hex"), 24);
  header.bytes.set(Buffer.from(sidecar.shrunkHash, "hex"), 56);
  header.u64(88, pageTableOffset).u64(96, sidecar.pages.length);
  header.u64(104, indexOffset).u64(112, indexBytes);
  return header.bytes;
}

/** The page table in the file's format. */
export function pageTable(pages: readonly PageRun[]): Uint8Array {
  const table = new Patch(new Uint8Array(24 * pages.length));
  pages.forEach(([address, bytes, fileOffset, rights], index) =>
    table
      .u64(24 * index, address + rights)
      .u64(24 * index + 8, bytes)
      .u64(24 * index + 16, fileOffset),
  );
  return table.bytes;
}

/** The index in the file's format. */
export function formatIndex({ name, buildId, mode, pieces }: SidecarIndex): Uint8Array {
  return new TextEncoder().encode(JSON.stringify({ name, buildId, mode, pieces }));
}

/**
 * Reads a sidecar's tables.
 * @throws DebloatError when it is none, or does not add up to the original
 */
export function readSidecar(data: Uint8Array, file: string): Sidecar {
  const bytes = new Bytes(data, file);
  if (data.length < sidecarHeaderBytes || latin1(bytes.slice(0, 8)) !== sidecarMagic)
    throw bytes.fail("it is not a sidecar", "give the file that --sidecar wrote.");
  const hex = (at: number) => Buffer.from(bytes.slice(at, 32)).toString("hex");
  const tableOffset = bytes.u64(88);
  const table = new Bytes(bytes.slice(tableOffset, 24 * bytes.u64(96)), file);
  const pages = Array.from({ length: bytes.u64(96) }, (_, run): PageRun => {
    const address = table.u64(24 * run);
    const rights = address % 8;
    return [address - rights, table.u64(24 * run + 8), table.u64(24 * run + 16), rights];
  });
  const sidecar = {
    ...parseIndex(bytes.slice(bytes.u64(104), bytes.u64(112)), file),
    originalBytes: bytes.u64(8),
    shrunkBytes: bytes.u64(16),
    originalHash: hex(24),
    shrunkHash: hex(56),
    pages,
  };
  requireWhole(sidecar, data.length, file);
  return sidecar;
}

function parseIndex(text: Uint8Array, file: string): SidecarIndex {
  const damaged = (cause?: unknown) =>
    new DebloatError(file, "its index is damaged", "shrink the original again.", { cause });
  let index: SidecarIndex;
  try {
    index = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(text)) as SidecarIndex;
  } catch (cause) {
    throw damaged(cause);
  }
  const isNatural = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
  const isPiece = (piece: unknown) =>
    Array.isArray(piece) &&
    piece.length === 3 &&
    (piece[0] === "shrunk" || piece[0] === "sidecar") &&
    isNatural(piece[1]) &&
    isNatural(piece[2]);
  const { name, buildId, mode, pieces } = index ?? {};
  const isText = typeof name === "string" && (buildId === null || typeof buildId === "string");
  if (!isText || !isNatural(mode) || !Array.isArray(pieces) || !pieces.every(isPiece))
    throw damaged();
  return { name, buildId, mode, pieces };
}

function requireWhole(sidecar: Sidecar, bytes: number, file: string): void {
  const ends = { shrunk: sidecar.shrunkBytes, sidecar: bytes };
  let whole = 0;
  for (const [from, offset, length] of sidecar.pieces) {
    whole += length;
    if (offset + length <= ends[from]) continue;
    throw new DebloatError(file, `a piece lies past the end of the ${from}`, "shrink again.");
  }
  if (whole === sidecar.originalBytes) return;
  const reason = `its pieces make ${whole} bytes of ${sidecar.originalBytes}`;
  throw new DebloatError(file, reason, "shrink the original again.");
}
