import { basename } from "node:path";
import { counted } from "../../shown.ts";
import { inspectLibrary, type Inspection } from "../../debloat/inspect/inspect.ts";
import { treemapPage } from "../../debloat/inspect/treemap.ts";
import { Pool } from "../../debloat/pool/pool.ts";
import { inputs, requireWritable, textStream, writeWhole } from "../outputs.ts";
import { megabytes, share, table } from "../table.ts";

/** Options of `flashbun debloat inspect`, as the command line parsed them. */
export interface InspectArguments {
  json?: string;
  html?: string;
  kernels?: boolean;
  quiet?: boolean;
}

/**
 * Prints what libraries consist of.
 * @returns the exit code
 * @throws FlashbunError for files that cannot be read and outputs that cannot be written
 */
export async function inspectCommand(files: string[], options: InspectArguments): Promise<number> {
  const outputs = { "--json": options.json, "--html": options.html };
  requireWritable(outputs, inputs(files));
  const text = textStream(outputs);
  using pool = new Pool();
  const found: Inspection[] = [];
  for (const file of files) {
    const inspection = await inspectLibrary(file, pool, options.kernels);
    found.push(inspection);
    if (!options.quiet) text.write(`${summaryOf(inspection)}\n`);
  }
  if (options.json !== undefined)
    await writeWhole(options.json, `${JSON.stringify(found, undefined, 1)}\n`);
  if (options.html !== undefined) await writeWhole(options.html, await treemapPage(found));
  return 0;
}

/** A library on a terminal: its parts, its device code by architecture, and savings. */
export function summaryOf(inspection: Inspection): string {
  const { file, bytes, buildId, shrunkFrom, functions, savings } = inspection;
  const { textBytes } = functions;
  const before = shrunkFrom === null ? "" : `  shrunk from ${megabytes(shrunkFrom)}`;
  const title = `${basename(file)}  ${megabytes(bytes)}  build ${buildId ?? "unknown"}${before}\n`;
  const covered =
    functions.count === 0
      ? "no unwind table names its functions"
      : `${functions.count} functions cover ${share(functions.bytes, textBytes)} of .text`;
  const rows = savings
    .filter((saving) => saving.bytes > 0)
    .map(({ option, bytes: saved, isBound }) => [
      `  ${option}`,
      `${isBound ? "up to " : ""}${megabytes(saved)}`,
      share(saved, bytes),
    ]);
  return [
    title,
    table(partRows(inspection)),
    `  host code: ${covered}\n`,
    archTable(inspection),
    notes(inspection),
    rows.length === 0 ? "" : `Would save of the file\n${table(rows)}`,
  ].join("");
}

function partRows({ sections, bytes }: Inspection): string[][] {
  const parts = new Map<string, number>();
  for (const section of sections)
    parts.set(section.part, (parts.get(section.part) ?? 0) + section.bytes);
  return [...parts]
    .sort((a, b) => b[1] - a[1])
    .map(([part, held]) => [`  ${part}`, megabytes(held), share(held, bytes)]);
}

function archTable({ archs }: Inspection): string {
  if (archs.length === 0) return "";
  const head = ["  section", "images for", "images", "stored", "unpacked", "kernels", "packed by"];
  const rows = archs.map((row) => [
    `  ${row.section}`,
    row.arch,
    String(row.images),
    megabytes(row.bytes),
    megabytes(row.rawBytes),
    String(row.kernels),
    (["zstd", "lz4", "none"] as const)
      .filter((name) => row[name] > 0)
      .map((name) => `${name} ${row[name]}`)
      .join(", "),
  ]);
  return table([head, ...rows], [0, 1, 6]);
}

function notes({ containers, opaque }: Inspection): string {
  const pinned = new Map<string, number>();
  for (const container of containers)
    if (container.pinned !== undefined)
      pinned.set(container.pinned, (pinned.get(container.pinned) ?? 0) + container.bytes);
  const odd = containers.flatMap(({ images }) => images.filter(({ note }) => note !== undefined));
  const isForAny = ({ kind }: { kind: string }) => kind === "ptx" || kind === "lto";
  const forAny = containers
    .flatMap(({ isLoose, images }) => (isLoose ? images.filter(isForAny) : []))
    .reduce((sum, image) => sum + image.bytes, 0);
  return [
    ...(forAny === 0
      ? []
      : [
          `  outside fat binaries, ${megabytes(forAny)} of PTX and LTO-IR may serve any GPU: ` +
            "they go by profile only\n",
        ]),
    ...[...pinned].map(([why, bytes]) => `  pinned, ${megabytes(bytes)}: ${why}\n`),
    ...opaque.map(({ section, bytes, reason }) => {
      return `  left as it is, ${megabytes(bytes)} of ${section}: ${reason}\n`;
    }),
    ...(odd.length === 0
      ? []
      : [`  left as they are, ${counted(odd.length, "image")}: ${odd[0].note}\n`]),
  ].join("");
}
