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
  writeSync,
} from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

const magic = Buffer.from("flashbun image 1\n");
const headerBytes = magic.length + 32;
const writableByOthers = 0o022;

/** Compiled images on disk, one file a content hash; what it cannot keep is compiled again. */
export class ImageCache {
  readonly directory: string;
  #usable: boolean | undefined;
  #warned = new Set<string>();
  #files = 0;

  constructor(directory = cacheDirectory()) {
    this.directory = directory;
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
    const content = file.subarray(headerBytes);
    const expected = file.subarray(magic.length, headerBytes);
    if (file.subarray(0, magic.length).equals(magic) && sealOf(hash, content).equals(expected))
      return new Uint8Array(content);
    this.#warn("damaged", `holds a damaged or foreign file, ${hash}.image; it is compiled again`);
    return undefined;
  }

  /** Keeps an image: readers see all of it or nothing, whoever else writes the same one. */
  write(hash: string, image: Uint8Array): void {
    if (!this.#isPrivate()) return;
    const path = this.#path(hash);
    const unfinished = `${path}.${process.pid}.${this.#files++}.part`;
    try {
      mkdirSync(this.directory, { recursive: true, mode: 0o700 });
      const file = openSync(unfinished, "w", 0o600);
      try {
        for (const part of [magic, sealOf(hash, image), image]) writeWhole(file, part);
        fsyncSync(file);
      } finally {
        closeSync(file);
      }
      renameSync(unfinished, path);
    } catch (error) {
      this.#warn("write", `cannot be written (${codeOf(error)}); images are compiled in each run`);
      removeIfThere(unfinished);
    }
  }

  /** How many images it holds, and their size; undefined where it is not used. */
  contents(): { images: number; bytes: number } | undefined {
    if (!this.#isPrivate()) return undefined;
    try {
      const names = readdirSync(this.directory).filter((name) => name.endsWith(".image"));
      const sizes = names.map((name) => statSync(join(this.directory, name)).size);
      return { images: names.length, bytes: sizes.reduce((sum, size) => sum + size, 0) };
    } catch {
      return { images: 0, bytes: 0 };
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

/** Binds the content to its name, so that a file under another's name is as bad as a damaged one. */
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
