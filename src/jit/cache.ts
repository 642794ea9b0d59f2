import { createHash } from "node:crypto";
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  type Stats,
  statSync,
  unlinkSync,
  utimesSync,
  writeSync,
} from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { partOf } from "../part-files.ts";

// A file: magic, seal, bytes of the label, label and zeros up to a multiple of 16, image.
const magic = Buffer.from("flashbun image 3\n");
const headerBytes = magic.length + 32;
const alignment = 16;
const writableByOthers = 0o022;
const ownFile = /^([0-9a-f]{64})\.image(\.\d+\.\d+\.part)?$/;

/** One file of the cache. */
export interface CachedImage {
  readonly hash: string;
  /** What the image was compiled from; undefined for a file that is damaged or foreign. */
  readonly label: string | undefined;
  readonly bytes: number;
  /** When it was last written or read. */
  readonly used: Date;
}

/**
 * Compiled images on disk, one file per content hash; what it cannot keep is compiled again. Above
 * `bytesMost` those used longest ago go: a server whose variants change fills no disk.
 */
export class ImageCache {
  readonly directory: string;
  readonly #bytesMost: number;
  #usable: boolean | undefined;
  #warned = new Set<string>();

  constructor(directory = cacheDirectory(), bytesMost = 2 ** 30) {
    this.directory = directory;
    this.#bytesMost = bytesMost;
  }

  /** The image of a hash, or undefined when it is not there or not whole. */
  read(hash: string): Uint8Array<ArrayBuffer> | undefined {
    if (!this.#isPrivate()) return undefined;
    let file: Buffer<ArrayBuffer>;
    try {
      file = readFileSync(this.#path(hash));
    } catch (error) {
      if (codeOf(error) !== "ENOENT") this.#warn("read", `cannot be read (${codeOf(error)})`);
      return undefined;
    }
    const found = parse(hash, file);
    if (found !== undefined) {
      this.#touch(hash);
      return found.image;
    }
    this.#warn("damaged", `holds a damaged or foreign file, ${hash}.image; it is compiled again`);
    return undefined;
  }

  /**
   * Keeps an image under its hash, with a label that says what it is: readers see all of it or
   * nothing, even if another process writes the same one.
   */
  write(hash: string, image: Uint8Array, label: string): void {
    if (!this.#isPrivate()) return;
    const path = this.#path(hash);
    const unfinished = partOf(path);
    try {
      mkdirSync(this.directory, { recursive: true, mode: 0o700 });
      const file = openSync(unfinished, "w", 0o600);
      try {
        const named = padded(Buffer.from(label));
        const content = Buffer.concat([new Uint8Array(4), named, image]);
        content.writeUInt32LE(named.length, 0);
        for (const part of [magic, sealOf(hash, content), content]) writeWhole(file, part);
        fsyncSync(file);
      } finally {
        closeSync(file);
      }
      renameSync(unfinished, path);
      this.#shrink(hash);
    } catch (error) {
      this.#warn("write", `cannot be written (${codeOf(error)}); images are compiled in each run`);
      removeIfThere(unfinished);
    }
  }

  /** Why nothing can be kept, as the system names it; undefined where images can be written. */
  writeFailure(): string | undefined {
    const probe = join(this.directory, `${"0".repeat(64)}.image.${process.pid}.0.part`);
    try {
      mkdirSync(this.directory, { recursive: true, mode: 0o700 });
      closeSync(openSync(probe, "w", 0o600));
      unlinkSync(probe);
    } catch (error) {
      return codeOf(error);
    }
    return this.#isPrivate() ? undefined : "not this user's alone";
  }

  /** How many images it holds, and their size; undefined where it is not used. */
  contents(): { images: number; bytes: number } | undefined {
    const images = this.#files();
    return (
      images && { images: images.length, bytes: images.reduce((sum, { bytes }) => sum + bytes, 0) }
    );
  }

  /** Its images, those used longest ago first; undefined where it is not used. */
  list(): CachedImage[] | undefined {
    return this.#files()?.flatMap((file) => {
      try {
        return { ...file, label: parse(file.hash, readFileSync(this.#path(file.hash)))?.label };
      } catch {
        return []; // Somebody else removed it, or it is no file.
      }
    });
  }

  /** Removes its images, and pieces that interrupted writes left; other files stay. */
  clear(): { images: number; bytes: number } | undefined {
    const names = this.#names();
    if (names === undefined) return undefined;
    const removed = { images: 0, bytes: 0 };
    for (const name of names) {
      const path = join(this.directory, name);
      try {
        const { size } = statSync(path);
        unlinkSync(path);
        removed.images += name.endsWith(".image") ? 1 : 0;
        removed.bytes += size;
      } catch (error) {
        if (codeOf(error) !== "ENOENT") this.#warn("clear", `holds ${name} (${codeOf(error)})`);
      }
    }
    return removed;
  }

  /** Notes that an image is used; where that is not allowed, it goes by when it was written. */
  #touch(hash: string): void {
    const now = new Date();
    try {
      utimesSync(this.#path(hash), now, now);
    } catch {
      // A cache that is only read.
    }
  }

  /** Removes what was used longest ago, but not the image of a hash, until the rest may stay. */
  #shrink(kept: string): void {
    const files = this.#files() ?? [];
    let total = files.reduce((sum, { bytes }) => sum + bytes, 0);
    for (const { hash, bytes } of files) {
      if (total <= this.#bytesMost) return;
      if (hash === kept) continue;
      removeIfThere(this.#path(hash));
      total -= bytes;
    }
  }

  /** Its whole files, those used longest ago first; undefined where it is not used. */
  #files(): Omit<CachedImage, "label">[] | undefined {
    const files = this.#names()?.flatMap((name) => {
      const [, hash, unfinished] = ownFile.exec(name)!;
      if (unfinished !== undefined) return [];
      try {
        const { size: bytes, mtime: used } = statSync(this.#path(hash));
        return [{ hash, bytes, used }];
      } catch {
        return []; // Somebody else removed it.
      }
    });
    return files?.sort((a, b) => a.used.getTime() - b.used.getTime());
  }

  /** Files that are the cache's own; undefined where it is not used. */
  #names(): string[] | undefined {
    if (!this.#isPrivate()) return undefined;
    try {
      return readdirSync(this.directory).filter((name) => ownFile.test(name));
    } catch {
      return [];
    }
  }

  #path(hash: string): string {
    return join(this.directory, `${hash}.image`);
  }

  /** A directory that others can write to could hand us their code. */
  #isPrivate(): boolean {
    if (this.#usable !== undefined) return this.#usable;
    let found: Stats;
    try {
      found = statSync(this.directory);
    } catch {
      return true; // not there yet; or reading and writing say why it cannot be used
    }
    this.#usable = found.uid === process.geteuid!() && (found.mode & writableByOthers) === 0;
    if (!this.#usable)
      this.#warn("private", "is not used: it is not this user's alone (mode 0700)");
    return this.#usable;
  }

  #warn(reason: string, sentence: string): void {
    if (this.#warned.has(reason)) return;
    this.#warned.add(reason);
    process.emitWarning(
      `the kernel cache ${this.directory} ${sentence}. FLASHBUN_CACHE names another directory.`,
      { type: "FlashbunWarning", code: "FLASHBUN_CACHE" },
    );
  }
}

/** FLASHBUN_CACHE, else flashbun's folder in the user's cache directory. */
export function cacheDirectory(): string {
  const { FLASHBUN_CACHE, XDG_CACHE_HOME } = process.env;
  return FLASHBUN_CACHE || join(XDG_CACHE_HOME || join(homedir(), ".cache"), "flashbun");
}

/** Label and image of a file; undefined unless it is whole and belongs under its name. */
function parse(
  hash: string,
  file: Buffer<ArrayBuffer>,
): { label: string; image: Uint8Array<ArrayBuffer> } | undefined {
  const content = file.subarray(headerBytes);
  const expected = file.subarray(magic.length, headerBytes);
  const isOwn = file.subarray(0, magic.length).equals(magic);
  if (!isOwn || !sealOf(hash, content).equals(expected) || content.length < 4) return undefined;
  const start = 4 + content.readUInt32LE(0);
  if (start > content.length) return undefined;
  return {
    label: content.toString("utf8", 4, start).replace(/\0+$/, ""),
    image: content.subarray(start),
  };
}

/** A label with as many zeros that the image behind it begins at a multiple, as drivers read it. */
function padded(label: Buffer): Buffer {
  const before = headerBytes + 4 + label.length;
  const zeros = Math.ceil(before / alignment) * alignment - before;
  return Buffer.concat([label, new Uint8Array(zeros)]);
}

/**
 * Binds the content to its name, so that a file under another's name is as bad as a damaged one.
 */
function sealOf(hash: string, content: Uint8Array): Buffer {
  return createHash("sha256").update(hash).update(content).digest();
}

function writeWhole(file: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) at += writeSync(file, bytes, at);
}

function removeIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // It was never made.
  }
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? String(error);
}
