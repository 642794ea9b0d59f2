/** `flashbun/debloat`: finds and removes what a CUDA library ships and never runs. */
export { DebloatError } from "../errors.ts";
export { inspectLibrary, type Inspection } from "./inspect.ts";
export { Pool } from "./pool.ts";
export { type Profile } from "./profile.ts";
export { parseProfile, formatProfile } from "./profile-text.ts";
export { restoreFile } from "./restore.ts";
export { shrinkLibrary, sidecarName, type ShrinkOptions, type ShrinkReport } from "./shrink.ts";
export { treemapPage } from "./treemap.ts";
