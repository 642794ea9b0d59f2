/** Files that a command writes at its end, and what it says meanwhile. */
import { accessSync, constants, statSync } from "node:fs";
import { rename, rm } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { OptionError, OutputError } from "../errors.ts";
import { partOf } from "../part-files.ts";

/** As a path: the standard output. */
const standardOutput = "-";

/** Paths by the option that names them, as typed; options that were not given are undefined. */
export type Paths = Readonly<Record<string, string | undefined>>;

/** Refuses outputs that could not be written at the end of a run. Errors: OptionError. */
export function requireWritable(outputs: Paths, inputs: Paths = {}): void {
  const taken = new Map<string, string>();
  for (const [option, path] of Object.entries(inputs))
    if (path !== undefined) taken.set(resolve(path), option);
  for (const [option, path] of Object.entries(outputs)) {
    if (path === undefined) continue;
    if (path !== standardOutput) requireFile(option, path);
    const place = path === standardOutput ? path : resolve(path);
    const other = taken.get(place);
    if (other !== undefined)
      throw new OptionError(option, path, `another path than that of ${other}`, "name two files.");
    taken.set(place, option);
  }
}

function requireFile(option: string, path: string): void {
  try {
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) throw new Error("a directory");
    accessSync(dirname(resolve(path)), constants.W_OK);
  } catch {
    const fix = "name a file in a folder that exists.";
    throw new OptionError(option, path, "a file that can be written", fix);
  }
}

/** Where a command says what people read: not where an output goes. */
export function textStream(outputs: Paths): NodeJS.WriteStream {
  return Object.values(outputs).includes(standardOutput) ? process.stderr : process.stdout;
}

/** Writes a file whole or not at all, or to the standard output. Errors: OutputError. */
export async function writeWhole(path: string, text: string): Promise<void> {
  try {
    if (path === standardOutput) await Bun.write(Bun.stdout, text);
    // Devices such as /dev/stdout are written in place.
    else if (statSync(path, { throwIfNoEntry: false })?.isFile() === false)
      await Bun.write(path, text);
    else await writeFile(path, text);
  } catch (cause) {
    throw unwritable(path, cause);
  }
}

async function writeFile(path: string, text: string): Promise<void> {
  const temporary = partOf(path);
  try {
    await Bun.write(temporary, text);
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true });
    throw cause;
  }
}

function unwritable(path: string, cause: unknown): OutputError {
  const { code } = cause as NodeJS.ErrnoException;
  const reasons: Readonly<Record<string, [reason: string, fix: string]>> = {
    ENOSPC: ["the disk is full", "free some space, or write to another disk"],
    EDQUOT: ["your quota is used up", "remove files, or write to another disk"],
    EACCES: ["no permission to write it", "check its permissions"],
    EROFS: ["the disk cannot be written", "write to another disk"],
    EPIPE: ["nobody reads it any more", "keep the reader until the end"],
  };
  const [reason, fix] = reasons[code ?? ""] ?? [`it cannot be written (${code})`, "check the path"];
  return new OutputError(path === standardOutput ? "the standard output" : path, reason, `${fix}.`);
}

/** The files that a command reads, for requireWritable. */
export function inputs(files: readonly string[]): Paths {
  return Object.fromEntries(files.map((file, i) => [`input ${i + 1}`, file]));
}
