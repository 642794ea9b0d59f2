/** A thread of the pool: reads what each job needs and does one job after another. */
import { readSync } from "node:fs";
import { DebloatError } from "../../errors.ts";
import { damage } from "../bytes.ts";
import { withOpened } from "../files.ts";
import { type Job, type Read, runJob } from "./jobs.ts";

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

self.onmessage = ({ data: { job, file } }: MessageEvent<Request>) => {
  const taken: ArrayBuffer[] = [];
  try {
    const results = withOpened(file, (descriptor) =>
      runJob(job, readerOf(descriptor, file, taken), file),
    );
    self.postMessage({ results });
  } catch (error) {
    self.postMessage(failure(error));
  }
  // Results hold none of it, and the collector would let it pile up.
  for (const buffer of taken) buffer.transfer(0);
};

/**
 * Read, not mapped: each thread's mapping would count as memory of its own.
 * @param taken gets the memory that was read into
 */
function readerOf(descriptor: number, file: string, taken: ArrayBuffer[]): Read {
  return (offset, count) => {
    const bytes = new Uint8Array(count);
    taken.push(bytes.buffer);
    for (let at = 0; at < count;) {
      const read = readSync(descriptor, bytes, at, count - at, offset + at);
      if (read === 0) throw damage(file, "it was cut short while it was read");
      at += read;
    }
    return bytes;
  };
}

function failure(error: unknown): Reply {
  if (error instanceof DebloatError)
    return { message: error.reason, file: error.file, fix: error.fix };
  return { message: error instanceof Error ? (error.stack ?? error.message) : String(error) };
}
