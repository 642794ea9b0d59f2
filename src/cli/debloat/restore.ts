import { statSync } from "node:fs";
import { join } from "node:path";
import { readLibraryId } from "../../debloat/library.ts";
import { restoreFile } from "../../debloat/shrink/restore.ts";
import { sidecarName } from "../../debloat/shrink/shrink.ts";

/**
 * Brings an original back from a shrunk library and its sidecar.
 * @returns the exit code
 * @throws DebloatError when the two do not belong together
 */
export function restoreCommand(
  file: string,
  { sidecar, output }: { sidecar: string; output: string },
): number {
  const isFolder = statSync(sidecar, { throwIfNoEntry: false })?.isDirectory() === true;
  const path = isFolder ? join(sidecar, sidecarName(readLibraryId(file), file)) : sidecar;
  const { name, originalBytes } = restoreFile(file, path, output);
  process.stdout.write(`${output}: ${name} as it was, ${originalBytes} bytes\n`);
  return 0;
}
