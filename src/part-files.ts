/** Temporary names of files and folders that are written whole or not at all. */
import { readdirSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";

let count = 0;

/** A name beside `path`, for a write that ends in a rename; what a killed one left there goes. */
export function partOf(path: string): string {
  removeLeft(path);
  return `${path}.${process.pid}.${count++}.part`;
}

/** Removes parts of the file or folder whose process is gone: it was killed before it could. */
function removeLeft(path: string): void {
  const folder = dirname(path);
  const before = `${basename(path)}.`;
  for (const name of namesIn(folder)) {
    if (!name.startsWith(before)) continue;
    const pid = /^(\d+)\.\d+\.part$/.exec(name.slice(before.length))?.[1];
    if (pid !== undefined && !lives(Number(pid))) remove(join(folder, name));
  }
}

function remove(path: string): void {
  rmSync(path, { recursive: true, force: true });
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function lives(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}
