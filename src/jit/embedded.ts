import { LibraryError } from "../errors.ts";
import { borrow, out, valueOf } from "../ffi/foreign.ts";
import { native } from "../ffi/library.ts";
import { check } from "../ffi/status.ts";

/** An image compiled ahead of time; the label says from what. */
export interface EmbeddedImage {
  readonly hash: string;
  readonly label: string;
  readonly bytes: Uint8Array;
}

// Blob: magic, count; then a row per image: hash (32 bytes), where image and label lie; then these.
const magic = 0x474d_4946; // "FIMG"
const headerBytes = 8;
const rowBytes = 48;
const alignment = 64;

let embedded: ReadonlyMap<string, EmbeddedImage> | undefined;

/** The images inside the native library, by hash. */
export function embeddedImages(): ReadonlyMap<string, EmbeddedImage> {
  if (embedded !== undefined) return embedded;
  const [address, bytes] = [out(), out()];
  check(native().fb_images(address, bytes), "embedded images");
  const length = valueOf(bytes);
  return (embedded = parseImages(
    length === 0 ? new Uint8Array(0) : new Uint8Array(borrow(valueOf(address), length)),
  ));
}

/** Reads a blob of images; an empty one holds none. */
export function parseImages(blob: Uint8Array): Map<string, EmbeddedImage> {
  const images = new Map<string, EmbeddedImage>();
  if (blob.length === 0) return images;
  const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength);
  if (blob.length < headerBytes || view.getUint32(0, true) !== magic) throw damaged("no header");
  const count = view.getUint32(4, true);
  const end = headerBytes + count * rowBytes;
  if (end > blob.length) throw damaged(`${count} rows in ${blob.length} bytes`);
  const part = (at: number) => {
    const [start, length] = [view.getUint32(at, true), view.getUint32(at + 4, true)];
    if (start < end || start + length > blob.length) throw damaged(`a part at ${start}`);
    return blob.subarray(start, start + length);
  };
  for (let row = headerBytes; row < end; row += rowBytes) {
    const hash = blob.subarray(row, row + 32).toHex();
    const label = new TextDecoder().decode(part(row + 40));
    images.set(hash, { hash, label, bytes: part(row + 32) });
  }
  return images;
}

/** Writes the blob that parseImages reads. */
export function packImages(images: readonly EmbeddedImage[]): Uint8Array<ArrayBuffer> {
  if (images.length === 0) return new Uint8Array(0);
  const labels = images.map(({ label }) => new TextEncoder().encode(label));
  let length = headerBytes + images.length * rowBytes;
  const place = (bytes: Uint8Array, align: number) => {
    const start = Math.ceil(length / align) * align;
    length = start + bytes.length;
    return { start, bytes };
  };
  const parts = images.map(({ bytes }, i) => [place(bytes, alignment), place(labels[i], 1)]);
  const blob = new Uint8Array(length);
  const view = new DataView(blob.buffer);
  view.setUint32(0, magic, true);
  view.setUint32(4, images.length, true);
  images.forEach(({ hash }, i) => {
    const row = headerBytes + i * rowBytes;
    blob.set(Uint8Array.fromHex(hash), row);
    parts[i].forEach(({ start, bytes }, column) => {
      view.setUint32(row + 32 + column * 8, start, true);
      view.setUint32(row + 36 + column * 8, bytes.length, true);
      blob.set(bytes, start);
    });
  });
  return blob;
}

function damaged(what: string): LibraryError {
  return new LibraryError(
    `the library's embedded images are damaged (${what}). Fix: build or install flashbun anew.`,
  );
}
