/**
 * Inspects or shrinks libraries in a process of its own, so that its memory is known; prints sums.
 *
 * Usage: bun bench/debloat/step.ts <JSON of a StepRequest>
 */
import { mkdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import {
  inspectLibrary,
  parseProfile,
  Pool,
  type Profile,
  shrinkLibrary,
  type ShrinkOptions,
  sidecarName,
} from "../../src/debloat/index.ts";
import { readLibraryId } from "../../src/debloat/library.ts";
import { overlapped } from "../../src/debloat/pool/overlap.ts";
import { transformerKernels } from "./kernels.ts";

/** What a step does. */
export interface StepRequest {
  readonly files: readonly string[];
  /** Absent: inspect. */
  readonly shrink?: Pick<
    ShrinkOptions,
    "arch" | "level" | "strip" | "dropRel" | "recompress" | "host"
  > & {
    readonly output: string;
    /** Whether the listed kernels stay. */
    readonly kernels?: boolean;
    /** Path of a profile, for pages of host code. */
    readonly profilePath?: string;
    /** Folder of sidecars. */
    readonly sidecars?: string;
  };
}

/** Bytes before and after. */
export interface StepSums {
  files: [number, number];
  fatbins: [number, number];
  hostCode: [number, number];
}

/** Does a step. */
export async function step({ files, shrink }: StepRequest): Promise<StepSums> {
  const sums: StepSums = { files: [0, 0], fatbins: [0, 0], hostCode: [0, 0] };
  const path = shrink?.profilePath;
  const profile = path === undefined ? undefined : parseProfile(readFileSync(path, "utf8"), path);
  using pool = new Pool();
  await overlapped(files, async (file) => {
    if (shrink === undefined) await inspectLibrary(file, pool);
    else await shrinkOne(file, shrink, profile, pool, sums);
  });
  return sums;
}

async function shrinkOne(
  file: string,
  shrink: NonNullable<StepRequest["shrink"]>,
  profile: Profile | undefined,
  pool: Pool,
  sums: StepSums,
): Promise<void> {
  const { output, kernels, profilePath: _, sidecars, ...options } = shrink;
  mkdirSync(output, { recursive: true });
  const { before, after } = await shrinkLibrary(
    file,
    join(output, basename(file)),
    {
      ...options,
      // A run of a CPU loads some of cuDNN's libraries not at all: those keep their host code.
      ...(profile !== undefined && !isProfiled(profile, file) && { host: "off" as const }),
      ...(kernels && { keep: transformerKernels }),
      ...(profile !== undefined && isProfiled(profile, file) && { profile }),
      ...(sidecars !== undefined && {
        sidecar: join(sidecars, sidecarName(readLibraryId(file), file)),
      }),
    },
    pool,
  );
  const add = (sum: [number, number], part: "file" | "fatbin" | "text") => {
    sum[0] += before[part];
    sum[1] += after[part];
  };
  add(sums.files, "file");
  add(sums.fatbins, "fatbin");
  add(sums.hostCode, "text");
}

function isProfiled({ libraries }: Profile, file: string): boolean {
  return readLibraryId(file)! in libraries;
}

if (import.meta.main) {
  const sums = await step(JSON.parse(process.argv[2]) as StepRequest);
  process.stdout.write(`${JSON.stringify(sums)}\n`);
}
