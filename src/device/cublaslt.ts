import { join } from "node:path";
import { DeviceError } from "../errors.ts";
import { cString } from "../ffi/foreign.ts";
import { native } from "../ffi/library.ts";
import { cudaFolders, type LibrarySearch, searchLibrary } from "../ffi/search.ts";
import { check } from "../ffi/status.ts";

/** NVIDIA's library of matrix products, open. */
export interface CublasLt {
  readonly path: string;
  /** Such as "13.1.0". */
  readonly version: string;
}

/** Names the file of it, in place of a search. */
export const cublasLtVariable = "FLASHBUN_CUBLASLT";

const majors = [13, 12];
const versionOut = new Int32Array(new ArrayBuffer(4));
let opened: CublasLt | undefined;

/**
 * cuBLASLt of this machine: at FLASHBUN_CUBLASLT alone where that is set, else the newest that a
 * driver of this CUDA takes, such as 13, where NCCL and NVRTC are looked for too.
 */
export function findCublasLt(cudaMajor: number): LibrarySearch {
  const fits = majors.filter((major) => major <= cudaMajor);
  return searchLibrary(cublasLtVariable, process.env[cublasLtVariable], () =>
    fits.flatMap((major) =>
      cudaFolders(`{cu${major},cublas}/lib`).map((folder) =>
        join(folder, `libcublasLt.so.${major}`),
      ),
    ),
  );
}

/** Opens it, once per process; a text says why there is none that works, without a full stop. */
export function openCublasLt(cudaMajor: number): CublasLt | string {
  if (opened !== undefined) return opened;
  const { path, tried } = findCublasLt(cudaMajor);
  if (path === undefined)
    return `no cuBLASLt was found at ${tried.length === 1 ? tried[0] : `${tried.length} places`}`;
  try {
    check(native().fb_cublaslt_open(cString(path), versionOut), "cuBLASLt");
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    return error.message;
  }
  const [number] = versionOut;
  const [major, minor] = [Math.floor(number / 10_000), Math.floor(number / 100) % 100];
  return (opened = { path, version: `${major}.${minor}.${number % 100}` });
}
