/** `flashbun/debloat`: finds and removes what a CUDA library ships and never runs. */
export { DebloatError } from "../errors.ts";
export { inspectLibrary, type Inspection } from "./inspect.ts";
export { Pool } from "./pool.ts";
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
export { restoreFile } from "./verify/restore.ts";
export { type RunOptions, runShrunk, type ShrunkRun } from "./profile/run.ts";
export { shrinkLibrary, sidecarName, type ShrinkOptions, type ShrinkReport } from "./shrink.ts";
export { type Ended } from "./profile/spawn.ts";
export { traceCommand, type Traced, type TraceOptions } from "./profile/trace.ts";
export { treemapPage } from "./treemap.ts";
export { type Check, verifyLibrary } from "./verify/verify.ts";
