/** Copies a folder with all that is in it: what stays as it is costs no room. */
import {
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import { dirname, isAbsolute, join, relative, resolve } from "node:path";
import { DebloatError } from "../../errors.ts";
import { partOf } from "../../part-files.ts";
import { asDebloatError } from "../files.ts";

/** A regular file of a folder. */
export interface TreeFile {
  readonly path: string;
  /** From the folder on. */
  readonly name: string;
  readonly bytes: number;
}

/** The regular files of a folder in the order of their names; others are made alike in `output`. */
export function layOut(source: string, output: string): TreeFile[] {
  const found: TreeFile[] = [];
  const walk = (folder: string) => {
    const from = join(source, folder);
    mkdirSync(join(output, folder), { recursive: true, mode: lstatSync(from).mode & 0o7777 });
    for (const entry of readdirSync(from, { withFileTypes: true }).sort(byName)) {
      const name = join(folder, entry.name);
      const path = join(source, name);
      if (entry.isDirectory()) walk(name);
      else if (entry.isSymbolicLink()) symlinkSync(targetOf(source, path), join(output, name));
      else if (entry.isFile()) found.push({ path, name, bytes: lstatSync(path).size });
      else throw new DebloatError(path, "it is no file, folder or link", "leave it out.");
    }
  };
  walk("");
  return found;
}

function byName(a: { name: string }, b: { name: string }): number {
  return a.name < b.name ? -1 : 1;
}

/** What a link says; one that names its own tree by a whole path leads to the copy. */
function targetOf(source: string, path: string): string {
  const target = readlinkSync(path);
  if (!isAbsolute(target)) return target;
  const inside = relative(source, target);
  if (inside.startsWith("..") || isAbsolute(inside)) return target;
  return relative(dirname(path), target) || ".";
}

/**
 * Puts a file into a copy: with blocks shared where the file system can, else as a second name of
 * the same file, else copied.
 */
export function share(path: string, output: string): void {
  try {
    copyFileSync(path, output, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE_FORCE);
    return;
  } catch {
    rmSync(output, { force: true });
  }
  try {
    linkSync(path, output);
  } catch {
    copyFileSync(path, output, constants.COPYFILE_EXCL);
  }
}

/** Whether a file begins as ELF files do. */
export function isElf(path: string): boolean {
  const head = new Uint8Array(4);
  const file = openSync(path, "r");
  try {
    return readSync(file, head) === 4 && Buffer.from(head).toString("latin1") === "\x7fELF";
  } finally {
    closeSync(file);
  }
}

/**
 * Makes folders whole or not at all: `fill` gets temporary ones, which take their names when it is
 * done and are removed when it fails or the process ends.
 * @throws DebloatError when one of them is there already, or lies in `source`
 */
export async function makeFolders<T>(
  source: string,
  outputs: readonly string[],
  fill: (...folders: string[]) => Promise<T>,
): Promise<T> {
  for (const output of outputs) requireNew(source, output);
  const parts = outputs.map((output) => {
    mkdirSync(dirname(resolve(output)), { recursive: true });
    return partOf(output);
  });
  const clean = () => {
    for (const part of parts) rmSync(part, { recursive: true, force: true });
  };
  process.on("exit", clean);
  try {
    for (const part of parts) mkdirSync(part);
    const made = await fill(...parts);
    parts.forEach((part, at) => renameSync(part, outputs[at]));
    return made;
  } catch (cause) {
    throw asDebloatError(cause, outputs[0]);
  } finally {
    clean();
    process.off("exit", clean);
  }
}

function requireNew(source: string, output: string): void {
  if (existsSync(output))
    throw new DebloatError(output, "it is there already", "remove it, or name another folder.");
  const inside = relative(realpathSync(source), resolve(output));
  if (!inside.startsWith("..") && !isAbsolute(inside))
    throw new DebloatError(output, "it lies in what is copied", "name a folder elsewhere.");
}
