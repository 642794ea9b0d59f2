/** Work on many entries of one library, done in this thread or in workers. */
import { type Contents, contentsOf } from "../fatbin/contents.ts";
import { type Edited, editEntry, type EditOptions } from "../fatbin/edit.ts";
import type { Entry, Source } from "../fatbin/fatbin.ts";
import { hashFile } from "../files.ts";

/** Looks into images, edits them, or hashes a whole file. */
export type Job =
  | { readonly kind: "look"; readonly section: SectionRange; readonly entries: readonly Entry[] }
  | {
      readonly kind: "edit";
      readonly section: SectionRange;
      readonly entries: readonly { readonly entry: Entry; readonly options: EditOptions }[];
    }
  | { readonly kind: "hash" };

/** Where a section lies in its file. */
export interface SectionRange {
  readonly offset: number;
  readonly bytes: number;
}

/** What a job made: one item an entry, in their order. */
export interface JobResults {
  look: Contents[];
  edit: Edited[];
  hash: string;
}

/** A job of one kind. */
export type JobOf<K extends Job["kind"]> = Extract<Job, { kind: K }>;

/** Reads a run of a library's file. */
export type Read = (offset: number, bytes: number) => Uint8Array;

/** Does one job on a library. */
export function runJob<K extends Job["kind"]>(
  job: JobOf<K>,
  read: Read,
  file: string,
): JobResults[K] {
  return run(job, read, file) as JobResults[K];
}

function run(job: Job, read: Read, file: string): JobResults[Job["kind"]] {
  if (job.kind === "hash") return hashFile(file);
  const { offset, bytes } = job.section;
  const section: Source = {
    subarray: (start = 0, end = bytes) => read(offset + start, end - start),
  };
  return job.kind === "look"
    ? job.entries.map((entry) => contentsOf(section, entry, file))
    : job.entries.map(({ entry, options }) => editEntry(section, entry, options, file));
}

/** Cuts a list so that each part has about `bytesMax` bytes by `bytesOf`. */
export function batches<T>(
  items: readonly T[],
  bytesOf: (item: T) => number,
  bytesMax = 2 ** 22,
): T[][] {
  const found: T[][] = [];
  let room = 0;
  for (const item of items) {
    if (room <= 0) {
      found.push([]);
      room = bytesMax;
    }
    found.at(-1)!.push(item);
    room -= bytesOf(item);
  }
  return found;
}
