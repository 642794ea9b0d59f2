import { accessSync, constants, statSync } from "node:fs";
import { rename, rm } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { OptionError } from "../errors.ts";

/**
 * Refuses a path that could not be written at the end of a run.
 * @throws OptionError naming the option
 */
export function requireWritable(option: string, path: string | undefined): void {
  if (path === undefined) return;
  const folder = dirname(resolve(path));
  try {
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) throw new Error("a directory");
    accessSync(folder, constants.W_OK);
  } catch {
    const fix = "name a file in a folder that exists.";
    throw new OptionError(option, path, "a file that can be written", fix);
  }
}

/** Writes a file whole or not at all. */
export async function writeWhole(path: string, text: string): Promise<void> {
  // Devices such as /dev/stdout are written in place.
  if (statSync(path, { throwIfNoEntry: false })?.isFile() === false) {
    await Bun.write(path, text);
    return;
  }
  const temporary = `${path}.${process.pid}.part`;
  try {
    await Bun.write(temporary, text);
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true });
    throw cause;
  }
}
