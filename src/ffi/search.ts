import { globSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** What a search for a library found, and where it looked. */
export interface LibrarySearch {
  readonly path: string | undefined;
  readonly tried: readonly string[];
}

/** Where Debian's libraries of one architecture lie, as a pattern. */
export const multiarch = "/usr/lib/{x86_64,aarch64}-linux-gnu";

const pythonPackages = "lib/python3*/{site,dist}-packages";

/** Folders that LD_LIBRARY_PATH names. */
export function namedFolders(): string[] {
  const { LD_LIBRARY_PATH } = process.env;
  return (LD_LIBRARY_PATH ?? "").split(":").filter((folder) => folder.startsWith("/"));
}

/**
 * Folders of NVIDIA's libraries, as patterns, in the order in which they are preferred; `pip` is
 * where the library lies in the folder that its Python packages share.
 */
export function cudaFolders(pip: string): string[] {
  const { VIRTUAL_ENV, CONDA_PREFIX, CUDA_HOME } = process.env;
  const prefixes = [VIRTUAL_ENV, CONDA_PREFIX, join(homedir(), ".local"), "/usr/local", "/usr"];
  prefixes.push("/opt/conda", "/opt/*", "/opt/*/.venv");
  const inPackages = join("nvidia", pip);
  return [
    ...namedFolders(),
    ...prefixes.flatMap((prefix) => (prefix ? [join(prefix, pythonPackages, inPackages)] : [])),
    join("/usr/lib/python3/dist-packages", inPackages),
    ...(CUDA_HOME ? [join(CUDA_HOME, "lib64")] : []),
    ...(CONDA_PREFIX ? [join(CONDA_PREFIX, "lib")] : []),
    "/usr/local/cuda*/lib64",
    multiarch,
    "/usr/lib64",
  ];
}

/** The file that `variable` says where it is set, else the first that one of the patterns finds. */
export function searchLibrary(
  variable: string,
  given: string | undefined,
  patterns: () => readonly string[],
): LibrarySearch {
  if (given) {
    const stands = statSync(given, { throwIfNoEntry: false })?.isFile() === true;
    return { path: stands ? given : undefined, tried: [`${variable}=${given}`] };
  }
  const tried = patterns();
  for (const pattern of tried) {
    const [path] = globSync(pattern).sort();
    if (path !== undefined) return { path, tried };
  }
  return { path: undefined, tried };
}
