/** Sidecars written and read back: the original from a shrunk library and what it lacks. */
import { basename } from "node:path";
import { DebloatError } from "../../errors.ts";
import { hashFile, isSameFile, mapFile, type MappedFile, writeAtomically } from "../files.ts";
import type { Assembly } from "./rewrite.ts";
import {
  formatIndex,
  pageTable,
  type Piece,
  readSidecar,
  type Sidecar,
  sidecarHeader,
  sidecarHeaderBytes,
  type PageRun,
} from "./sidecar.ts";

/** What a sidecar is made of besides the assembly. */
export interface SidecarSource extends MappedFile {
  readonly file: string;
  readonly mode: number;
  readonly buildId: string | undefined;
  readonly originalHash: string;
  readonly shrunkHash: string;
}

const rightsMask = 7;

/** Writes what the shrunk library lacks of the original. Returns the sidecar's size. */
export function writeSidecar(path: string, assembly: Assembly, source: SidecarSource): number {
  const { data, buildId } = source;
  let written = 0;
  writeAtomically(path, 0o644, (writer) => {
    // Runs of pages follow the header's page: all begin at a page.
    writer.write(new Uint8Array(sidecarHeaderBytes));
    const pages = assembly.pages.map(({ address, bytes, offset, flags }): PageRun => {
      const run: PageRun = [address, bytes, writer.bytes, flags & rightsMask];
      writer.copy(source, offset, bytes);
      return run;
    });
    const places = assembly.pages.map(({ bytes, offset }, run): Place => [
      offset,
      bytes,
      "sidecar",
      pages[run][2],
    ]);
    const pieces = cover(data.length, [...places, ...shrunkPlaces(assembly)], (offset, bytes) => {
      const at = writer.bytes;
      writer.copy(source, offset, bytes);
      return at;
    });
    writer.write(new Uint8Array((8 - (writer.bytes % 8)) % 8));
    const tableOffset = writer.bytes;
    writer.write(pageTable(pages));
    const index = formatIndex({
      name: basename(source.file),
      buildId: buildId ?? null,
      mode: source.mode,
      pieces,
    });
    const sidecar: Sidecar = {
      name: basename(source.file),
      buildId: buildId ?? null,
      mode: source.mode,
      pieces,
      pages,
      originalBytes: data.length,
      shrunkBytes: assembly.bytes,
      originalHash: source.originalHash,
      shrunkHash: source.shrunkHash,
    };
    const indexOffset = writer.bytes;
    writer.write(index);
    writer.writeAt(0, sidecarHeader(sidecar, tableOffset, indexOffset, index.length));
    written = writer.bytes;
  });
  return written;
}

/** A run of the original and where it is held. */
type Place = [offset: number, bytes: number, from: Piece[0], at: number];

/** What of the original the shrunk library holds somewhere. */
function shrunkPlaces({ parts }: Assembly): Place[] {
  const places: Place[] = [];
  let at = 0;
  for (const { bytes, source } of parts) {
    if (typeof source === "number") places.push([source, bytes, "shrunk", at]);
    at += bytes;
  }
  return places;
}

/** Pieces that make up the original; `store` keeps what none of the places holds. */
function cover(
  length: number,
  places: Place[],
  store: (offset: number, bytes: number) => number,
): Piece[] {
  const pieces: Piece[] = [];
  let end = 0;
  for (const [offset, bytes, from, at] of places.sort((a, b) => a[0] - b[0])) {
    if (offset > end) pieces.push(["sidecar", store(end, offset - end), offset - end]);
    const known = Math.max(0, end - offset);
    if (known < bytes) pieces.push([from, at + known, bytes - known]);
    end = Math.max(end, offset + bytes);
  }
  if (end < length) pieces.push(["sidecar", store(end, length - end), length - end]);
  return pieces;
}

/**
 * Brings an original back, bit for bit.
 * @param shrunk the shrunk library
 * @param sidecar what --sidecar wrote beside it
 * @param output where the original goes; neither of the two
 * @throws DebloatError when the two do not belong together or were changed
 */
export function restoreFile(shrunk: string, sidecar: string, output: string): Sidecar {
  for (const input of [shrunk, sidecar])
    if (isSameFile(input, output))
      throw new DebloatError(output, "it is what is read from", "write to another path.");
  const from = { shrunk: mapFile(shrunk).data, sidecar: mapFile(sidecar).data };
  const read = readSidecar(from.sidecar, sidecar);
  const wrong = (file: string, what: string) =>
    new DebloatError(file, what, "give the two files that one run of shrink wrote.");
  if (from.shrunk.length !== read.shrunkBytes || hashFile(shrunk) !== read.shrunkHash)
    throw wrong(shrunk, `it is not the library that ${sidecar} belongs to`);
  writeAtomically(output, read.mode, (writer) => {
    const hasher = new Bun.CryptoHasher("sha256");
    for (const [name, offset, bytes] of read.pieces) {
      const piece = from[name].subarray(offset, offset + bytes);
      hasher.update(piece);
      writer.write(piece);
    }
    if (hasher.digest("hex") !== read.originalHash)
      throw wrong(sidecar, "what it holds is damaged: the original does not come out of it");
  });
  return read;
}

/**
 * Writes a shrunk library.
 * @param whenHashed called with its SHA-256 in hex before the file takes its name: if it throws,
 *   nothing was written. Without it nothing is hashed.
 */
export function writeShrunk(
  path: string,
  assembly: Assembly,
  source: MappedFile & { readonly mode: number },
  whenHashed?: (hash: string) => void,
): void {
  writeAtomically(path, source.mode, (writer) => {
    for (const { source: from, bytes } of assembly.parts)
      if (typeof from === "number") writer.copy(source, from, bytes);
      else writer.write(from);
    whenHashed?.(writer.hash());
  });
}
