/** What a profile holds. */
import type { Ranges } from "../elf/ranges.ts";

/** What of the host code a traced run watched: 4 KiB pages, functions, or nothing. */
export type HostMode = "pages" | "functions" | "off";

/** One traced run of a command. */
export interface ProfileRun {
  command: string[];
  /** ISO 8601, UTC. */
  date: string;
  host: HostMode;
  /** Architecture of the GPU that ran, such as sm_90; null without one. */
  gpu: string | null;
  /** Version of the driver, such as 580.159; null without a GPU. */
  driver: string | null;
  /** CUDA version the driver speaks, such as 13.0; null without a GPU. */
  cuda: string | null;
}

/** A device image as the driver loaded it, uncompressed: its size and CRC-32. */
export interface CubinId {
  bytes: number;
  crc32: number;
}

/** What runs used of one build of a library. Lists are sorted and hold nothing twice. */
export interface ProfiledLibrary {
  path: string;
  bytes: number;
  /** Mangled names. */
  kernels: string[];
  cubins: CubinId[];
  globals: string[];
  /** 4 KiB pages of virtual addresses in executable segments: [first page, count]. */
  pages: Ranges;
  /**
   * Pages that were touched of device code outside fat binaries: [first page, count]; absent where
   * that was not watched.
   */
  devicePages?: Ranges;
  /** Entered functions: [virtual address, bytes]. */
  functions: [vaddr: number, bytes: number][];
}

/** What runs used, by build of the library: its build id in hex, or sha256:hex of the file. */
export interface Profile {
  version: 1;
  runs: ProfileRun[];
  libraries: Record<string, ProfiledLibrary>;
  /** Kernels and images that are in none of the libraries, such as those compiled at run time. */
  unresolved: { kernels: string[]; cubins: CubinId[] };
}
