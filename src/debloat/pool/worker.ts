/** A thread of the pool: maps the library of each job and does one job after another. */
import { DebloatError } from "../../errors.ts";
import { mapReadOnly } from "../../ffi/mapping.ts";
import { type Job, runJob } from "./jobs.ts";

declare const self: Worker;

/** A job on a library. */
export interface Request {
  readonly job: Job;
  readonly file: string;
}

/** What a job made, or how it failed. */
export type Reply =
  | { readonly results: unknown }
  | { readonly message: string; readonly file?: undefined }
  | { readonly message: string; readonly file: string; readonly fix: string };

let mapped: { file: string; data: Uint8Array } | undefined;

self.onmessage = ({ data: { job, file } }: MessageEvent<Request>) => {
  try {
    if (job.kind !== "hash" && mapped?.file !== file) {
      mapped = undefined;
      // The mapping of the file before goes with its object.
      Bun.gc(true);
      mapped = { file, data: mapReadOnly(file) };
    }
    self.postMessage({ results: runJob(job, mapped?.data ?? new Uint8Array(), file) });
    // Unpacked images are large, and the collector would let them pile up.
    Bun.gc(true);
  } catch (error) {
    self.postMessage(failure(error));
  }
};

function failure(error: unknown): Reply {
  if (error instanceof DebloatError)
    return { message: error.reason, file: error.file, fix: error.fix };
  return { message: error instanceof Error ? (error.stack ?? error.message) : String(error) };
}
