/** A thread of the pool: reads what each job needs and does one job after another. */
import { readSync } from "node:fs";
import { DebloatError } from "../../errors.ts";
import { damage } from "../bytes.ts";
import { withOpened } from "../files.ts";
import { type Job, type Read, runJob, unpackedBytes } from "./jobs.ts";

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

/** Unpacked bytes after which they are collected: the collector would let them pile up. */
const uncollectedBytesMax = 2 ** 26;

let uncollectedBytes = 0;

self.onmessage = ({ data: { job, file } }: MessageEvent<Request>) => {
  try {
    const results = withOpened(file, (descriptor) => runJob(job, readerOf(descriptor, file), file));
    self.postMessage({ results });
  } catch (error) {
    self.postMessage(failure(error));
  }
  uncollectedBytes += unpackedBytes(job);
  if (uncollectedBytes < uncollectedBytesMax) return;
  uncollectedBytes = 0;
  Bun.gc(true);
};

/** Read, not mapped: each thread's mapping would count as memory of its own. */
function readerOf(descriptor: number, file: string): Read {
  return (offset, count) => {
    const bytes = new Uint8Array(count);
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
