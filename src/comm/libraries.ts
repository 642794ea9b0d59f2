import { join } from "node:path";
import {
  cudaFolders,
  type LibrarySearch,
  multiarch,
  namedFolders,
  searchLibrary,
} from "../ffi/search.ts";

/** The variables that name a library, beside which nothing else is looked for. */
export const libraryVariables = { MPI: "FLASHBUN_MPI", NCCL: "FLASHBUN_NCCL" } as const;

/** A library of communication. */
export type LibraryName = keyof typeof libraryVariables;

/** Files, as patterns, in the order in which they are preferred. */
function places(name: LibraryName): string[] {
  const { CONDA_PREFIX, NCCL_HOME } = process.env;
  if (name === "NCCL") {
    const folders = [...(NCCL_HOME ? [join(NCCL_HOME, "lib")] : []), ...cudaFolders("nccl/lib")];
    return folders.map((folder) => join(folder, "libnccl.so.2"));
  }
  const folders = [
    ...namedFolders(),
    ...(CONDA_PREFIX ? [join(CONDA_PREFIX, "lib")] : []),
    multiarch,
    "/usr/lib64{,/openmpi/lib,/mpich/lib}",
    "/usr/local/lib",
    "/opt/*/lib",
  ];
  return folders.map((folder) => join(folder, "{libmpi.so.40,libmpich.so.12,libmpi.so.12}"));
}

/** Looks for a library: at its variable alone where that is set, else in the usual places. */
export function findLibrary(name: LibraryName): LibrarySearch {
  const variable = libraryVariables[name];
  return searchLibrary(variable, process.env[variable], () => places(name));
}
