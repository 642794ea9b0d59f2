import { globSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** What a search found, and where it looked. */
export interface LibrarySearch {
  readonly path: string | undefined;
  readonly tried: readonly string[];
}

/** The variables that name a library, beside which nothing else is looked for. */
export const libraryVariables = { MPI: "FLASHBUN_MPI", NCCL: "FLASHBUN_NCCL" } as const;

/** A library of communication. */
export type LibraryName = keyof typeof libraryVariables;

const multiarch = "/usr/lib/{x86_64,aarch64}-linux-gnu";
const pythonPackages = "lib/python3*/{site,dist}-packages";

/** Files, as patterns, in the order in which they are preferred. */
function places(name: LibraryName): string[] {
  const { VIRTUAL_ENV, CONDA_PREFIX, LD_LIBRARY_PATH, CUDA_HOME, NCCL_HOME } = process.env;
  const named = (LD_LIBRARY_PATH ?? "").split(":").filter((folder) => folder.startsWith("/"));
  if (name === "MPI") {
    const folders = [
      ...named,
      ...(CONDA_PREFIX ? [join(CONDA_PREFIX, "lib")] : []),
      multiarch,
      "/usr/lib64{,/openmpi/lib,/mpich/lib}",
      "/usr/local/lib",
      "/opt/*/lib",
    ];
    return folders.map((folder) => join(folder, "{libmpi.so.40,libmpich.so.12,libmpi.so.12}"));
  }
  const prefixes = [VIRTUAL_ENV, CONDA_PREFIX, join(homedir(), ".local"), "/usr/local", "/usr"];
  prefixes.push("/opt/conda", "/opt/*", "/opt/*/.venv");
  const folders = [
    ...(NCCL_HOME ? [join(NCCL_HOME, "lib")] : []),
    ...named,
    ...prefixes.flatMap((prefix) =>
      prefix ? [join(prefix, pythonPackages, "nvidia/nccl/lib")] : [],
    ),
    "/usr/lib/python3/dist-packages/nvidia/nccl/lib",
    ...(CUDA_HOME ? [join(CUDA_HOME, "lib64")] : []),
    ...(CONDA_PREFIX ? [join(CONDA_PREFIX, "lib")] : []),
    "/usr/local/cuda*/lib64",
    multiarch,
    "/usr/lib64",
  ];
  return folders.map((folder) => join(folder, "libnccl.so.2"));
}

/** Looks for a library: at its variable alone where that is set, else in the usual places. */
export function findLibrary(name: LibraryName): LibrarySearch {
  const variable = libraryVariables[name];
  const given = process.env[variable];
  if (given) {
    const stands = statSync(given, { throwIfNoEntry: false })?.isFile() === true;
    return { path: stands ? given : undefined, tried: [`${variable}=${given}`] };
  }
  const tried = places(name);
  for (const pattern of tried) {
    const [path] = globSync(pattern).sort();
    if (path !== undefined) return { path, tried };
  }
  return { path: undefined, tried };
}
