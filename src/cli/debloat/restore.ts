import { statSync } from "node:fs";
import { join } from "node:path";
import { readLibraryId } from "../../debloat/library.ts";
import { restoreFile } from "../../debloat/shrink/restore.ts";
import { sidecarName } from "../../debloat/shrink/shrink.ts";
import { restoreTree } from "../../debloat/tree/tree.ts";
import { counted } from "../../shown.ts";

/**
 * Brings an original back from a shrunk library or folder and what was kept beside it.
 * @returns the exit code
 * @throws DebloatError when the two do not belong together
 */
export async function restoreCommand(
  file: string,
  { sidecar, output }: { sidecar: string; output: string },
): Promise<number> {
  if (statSync(file, { throwIfNoEntry: false })?.isDirectory() === true) {
    const { files, libraries } = await restoreTree(file, sidecar, output);
    const count = counted(libraries.length, "library", "libraries");
    process.stdout.write(`${output}: ${counted(files, "file")}, ${count} as they were\n`);
    return 0;
  }
  const isFolder = statSync(sidecar, { throwIfNoEntry: false })?.isDirectory() === true;
  const path = isFolder ? join(sidecar, sidecarName(readLibraryId(file), file)) : sidecar;
  const { name, originalBytes } = restoreFile(file, path, output);
  process.stdout.write(`${output}: ${name} as it was, ${originalBytes} bytes\n`);
  return 0;
}
