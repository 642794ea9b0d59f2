import { statSync } from "node:fs";
import { basename, join } from "node:path";
import { archName } from "../../debloat/fatbin/fatbin.ts";
import { readLibraryId } from "../../debloat/library.ts";
import { overlapped } from "../../debloat/pool/overlap.ts";
import { Pool } from "../../debloat/pool/pool.ts";
import type { ShrinkReport } from "../../debloat/shrink/decide.ts";
import type { ShrinkOptions } from "../../debloat/shrink/options.ts";
import { shrinkLibrary, sidecarName } from "../../debloat/shrink/shrink.ts";
import { OptionError } from "../../errors.ts";
import { inputs, requireWritable, textStream, writeWhole } from "../outputs.ts";
import { counted } from "../../shown.ts";
import { megabytes, share, table } from "../table.ts";
import { readProfile } from "./trace.ts";

/** Options of `flashbun debloat shrink`, as the command line parsed them. */
export interface ShrinkArguments {
  output?: string;
  arch?: string[];
  profile?: string;
  level?: "arch" | "cubin" | "kernel";
  host: "off" | "pages";
  strip?: boolean;
  dropRel?: boolean;
  recompress?: number;
  keep?: RegExp;
  sidecar?: string;
  json?: string;
  quiet?: boolean;
}

/**
 * Shrinks libraries, or prints what would be removed.
 * @returns the exit code
 * @throws FlashbunError; others may have been written
 */
export async function shrinkCommand(files: string[], options: ShrinkArguments): Promise<number> {
  const outputs = { "--json": options.json };
  requireWritable(outputs, inputs(files));
  const text = textStream(outputs);
  requireOneOutputEach(files);
  // Files are written in one go: an end in between would leave a part of one.
  process.on("SIGINT", () => process.exit(130)).on("SIGTERM", () => process.exit(143));
  const { output, sidecar, profile: profilePath, json, quiet, ...rest } = options;
  const profile = profilePath === undefined ? undefined : readProfile(profilePath);
  using pool = new Pool();
  const started = performance.now();
  const reports = await overlapped(files, async (file) => {
    const path = output === undefined ? undefined : join(output, basename(file));
    const library: ShrinkOptions = {
      ...rest,
      profile,
      sidecar: sidecar === undefined ? undefined : sidecarPath(sidecar, file, files.length),
      onProgress: quiet ? undefined : progress(basename(file)),
    };
    const report = await shrinkLibrary(file, path, library, pool);
    const reasons = output === undefined ? `${reasonsOf(report)}\n` : "";
    if (!quiet) text.write(`${lineOf(report)}${reasons}`);
    return report;
  });
  if (!quiet) text.write(totalOf(reports, performance.now() - started));
  if (!quiet) text.write(choices(files, { ...rest, profile }));
  if (json !== undefined)
    await writeWhole(json, `${JSON.stringify(reports.map(asJson), undefined, 1)}\n`);
  return 0;
}

/** What there is to choose from, where nothing was chosen. */
function choices(files: readonly string[], options: ShrinkOptions): string {
  const { arch, profile, keep, strip, dropRel, recompress } = options;
  if (arch || profile || keep || strip || dropRel || recompress) return "";
  const [file] = files;
  return (
    "nothing was chosen to go: --arch keeps the code of GPUs that you name, --profile what a run " +
    "used, --keep kernels by name; --strip, --drop-rel and --recompress need no choice.\n" +
    `What each would save: flashbun debloat inspect ${file}\n`
  );
}

function requireOneOutputEach(files: readonly string[]): void {
  const names = files.map((file) => basename(file));
  const twice = names.find((name, at) => names.indexOf(name) !== at);
  if (twice === undefined) return;
  throw new OptionError(
    "<lib...>",
    twice,
    "libraries of different names",
    "shrink them one at a time, into folders of their own.",
  );
}

/** A folder, or for one library the file itself. */
function sidecarPath(sidecar: string, file: string, libraries: number): string {
  const isFolder = statSync(sidecar, { throwIfNoEntry: false })?.isDirectory() === true;
  if (sidecar.endsWith(".side") && !isFolder) {
    if (libraries === 1) return sidecar;
    const fix = "give a folder: each library gets a sidecar of its own.";
    throw new OptionError("--sidecar", sidecar, "a folder for several libraries", fix);
  }
  return join(sidecar, sidecarName(readLibraryId(file), file));
}

/** Reports every two seconds how many of a library's bytes are done. */
function progress(name: string): (done: number, all: number) => void {
  let last = performance.now();
  return (done, all) => {
    const now = performance.now();
    if (now - last < 2000) return;
    last = now;
    process.stderr.write(`debloat: ${name}, ${megabytes(done)} of ${megabytes(all)} device code\n`);
  };
}

function lineOf({ file, before, after, sidecarBytes, hostKept }: ShrinkReport): string {
  const part = (name: string, from: number, to: number) =>
    from === to ? [] : [`${name} ${megabytes(from)} -> ${megabytes(to)}`];
  const parts = [
    ...part("fat binaries", before.fatbin, after.fatbin),
    ...part("relocatable", before.relocatable, after.relocatable),
    ...part("outside them", before.loose, after.loose),
    ...part("host code", before.text, after.text),
    ...(hostKept === undefined ? [] : [`host code stays: ${hostKept}`]),
    ...(sidecarBytes === 0 ? [] : [`sidecar ${megabytes(sidecarBytes)}`]),
  ];
  const saved = share(after.file - before.file, before.file);
  const detail = parts.length === 0 ? "" : ` (${parts.join(", ")})`;
  const sizes = `${megabytes(before.file)} -> ${megabytes(after.file)}`;
  return `${basename(file)}: ${sizes}, ${saved}${detail}\n`;
}

/** What a dry run prints: images by what happens to them and why. */
function reasonsOf({ device }: ShrinkReport): string {
  const rows = new Map<string, { images: number; bytes: number }>();
  for (const { name, containers } of device)
    for (const { entries } of containers)
      for (const { entry, action, reason } of entries) {
        const key = [action, name, archName(entry), reason].join("\0");
        const row = rows.get(key) ?? { images: 0, bytes: 0 };
        row.images++;
        row.bytes += entry.headerBytes + entry.paddedBytes;
        rows.set(key, row);
      }
  const sorted = [...rows].sort((a, b) => b[1].bytes - a[1].bytes);
  const shown = sorted.slice(0, reasonsShown).map(([key, { images, bytes }]) => {
    const [action, section, arch, reason] = key.split("\0");
    return [`  ${action}`, section, arch, String(images), megabytes(bytes), reason];
  });
  const more = sorted.length - shown.length;
  const rest = more > 0 ? `  and ${counted(more, "more line")}: --json lists every item\n` : "";
  return table(shown, [0, 1, 2, 5]) + rest;
}

const reasonsShown = 24;

function totalOf(reports: readonly ShrinkReport[], milliseconds: number): string {
  const sum = (side: "before" | "after", part: "file" | "fatbin") =>
    reports.reduce((total, report) => total + report[side][part], 0);
  const change = (part: "file" | "fatbin") => {
    const [from, to] = [sum("before", part), sum("after", part)];
    return `${megabytes(from)} -> ${megabytes(to)}, ${share(to - from, from)}`;
  };
  const count = counted(reports.length, "library", "libraries");
  const seconds = (milliseconds / 1e3).toFixed(1);
  return `${count} in ${seconds} s: files ${change("file")}; fat binaries ${change("fatbin")}\n`;
}

/** A report with every item and its reason. */
function asJson({ device, droppedKernels, ...report }: ShrinkReport): object {
  const items = device.flatMap(({ name, offset, containers }) =>
    containers.flatMap(({ container, pinned, entries }) =>
      entries.map(({ entry, action, reason, kernels }) => ({
        section: name,
        container: container.offset,
        arch: archName(entry),
        bytes: entry.headerBytes + entry.paddedBytes,
        action,
        reason,
        pinned,
        keptKernels: kernels,
        droppedKernels: droppedKernels.get(offset + entry.offset),
      })),
    ),
  );
  return { ...report, items };
}
