/**
 * Finds and removes what a CUDA library ships and never runs.
 * @module flashbun/debloat
 */
export { DebloatError } from "../errors.ts";
export type { Ranges } from "./elf/ranges.ts";
export {
  type ArchFigures,
  type ContainerFigures,
  type ImageFigures,
  inspectLibrary,
  type Inspection,
  type Saving,
  type SectionFigures,
} from "./inspect/inspect.ts";
export { Pool } from "./pool/pool.ts";
export {
  type CubinId,
  type HostMode,
  mergeProfiles,
  type Profile,
  profiledLibrary,
  type ProfiledLibrary,
  type ProfileRun,
  subtractProfiles,
} from "./profile/profile.ts";
export { parseProfile, formatProfile } from "./profile/text.ts";
export type { PageRun, Piece, Sidecar, SidecarIndex } from "./shrink/sidecar.ts";
export { restoreFile } from "./shrink/restore.ts";
export { type AutoOptions, autoRun, type AutoRun } from "./auto.ts";
export { type RunOptions, runShrunk, type ShrunkRun } from "./run.ts";
export {
  restoreTree,
  slimTree,
  type TreeLibrary,
  type TreeOptions,
  type TreeReport,
} from "./tree/tree.ts";
export type { SectionReport, ShrinkReport, Sizes } from "./shrink/decide.ts";
export { type ShrinkOptions } from "./shrink/options.ts";
export type { ContainerPlan, EntryPlan, Level } from "./shrink/plan.ts";
export type { Compression } from "./fatbin/compression.ts";
export type { Container, Entry, EntryKind } from "./fatbin/fatbin.ts";
export { shrinkLibrary, sidecarName } from "./shrink/shrink.ts";
export { type Ended } from "./process/spawn.ts";
export { traceCommand, type Traced, type TraceOptions } from "./profile/trace.ts";
export { treemapPage } from "./inspect/treemap.ts";
export { type Check, verifyLibrary } from "./verify/verify.ts";
