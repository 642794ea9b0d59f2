import { basename, join } from "node:path";
import { inspectLibrary } from "../../debloat/inspect/inspect.ts";
import { treemapPage } from "../../debloat/inspect/treemap.ts";
import { Pool } from "../../debloat/pool/pool.ts";
import { slimTree, type TreeReport } from "../../debloat/tree/tree.ts";
import { counted } from "../../shown.ts";
import { requireWritable, textStream, writeWhole } from "../outputs.ts";
import { megabytes, share, table } from "../table.ts";
import { readProfile } from "./trace.ts";

/** Options of `flashbun debloat tree`, as the command line parsed them. */
export interface TreeArguments {
  output: string;
  profile?: string;
  arch?: string[];
  level?: "arch" | "cubin" | "kernel";
  host: "off" | "pages";
  strip?: boolean;
  dropRel?: boolean;
  keep?: RegExp;
  sidecar?: string;
  json?: string;
  html?: string;
  quiet?: boolean;
}

/**
 * Makes a slim copy of an environment.
 * @returns the exit code
 * @throws FlashbunError; then nothing was written
 */
export async function treeCommand(source: string, options: TreeArguments): Promise<number> {
  const { output, profile, json, html, quiet, ...rest } = options;
  const outputs = { "--json": json, "--html": html };
  requireWritable(outputs);
  const text = textStream(outputs);
  const say = (sentence: string) => void (quiet || process.stderr.write(`debloat: ${sentence}\n`));
  // What was begun goes as the process ends.
  process.on("SIGINT", () => process.exit(130)).on("SIGTERM", () => process.exit(143));
  const started = performance.now();
  const report = await slimTree(source, output, {
    ...rest,
    ...(profile === undefined ? {} : { profile: readProfile(profile) }),
    onShrink: (name) => say(`shrinking ${basename(name)}`),
    onProblem: say,
  });
  if (!quiet) text.write(summaryOf(report, performance.now() - started));
  if (json !== undefined) await writeWhole(json, `${JSON.stringify(report, undefined, 1)}\n`);
  if (html !== undefined) await writeWhole(html, await pageOf(output, report));
  return 0;
}

function summaryOf(report: TreeReport, milliseconds: number): string {
  const { files, bytesBefore, bytesAfter, libraries, records } = report;
  const rows = [...libraries]
    .sort((a, b) => b.bytesBefore - b.bytesAfter - (a.bytesBefore - a.bytesAfter))
    .map(({ name, bytesBefore: from, bytesAfter: to, isProfiled }) => [
      `  ${name}`,
      megabytes(from),
      megabytes(to),
      share(to - from, from),
      isProfiled ? "" : "by GPU alone",
    ]);
  const sizes = `${megabytes(bytesBefore)} -> ${megabytes(bytesAfter)}`;
  const count = counted(libraries.length, "library", "libraries");
  return (
    table(rows, [0, 4]) +
    `${counted(files, "file")} in ${(milliseconds / 1e3).toFixed(1)} s: ${sizes}, ` +
    `${share(bytesAfter - bytesBefore, bytesBefore)}; ${count} shrunk, ` +
    `${counted(records, "RECORD")} brought up to date\n`
  );
}

/** What the shrunk libraries hold now, each a map of its own. */
async function pageOf(output: string, { libraries }: TreeReport): Promise<string> {
  using pool = new Pool();
  const found = [];
  for (const { name } of libraries) found.push(await inspectLibrary(join(output, name), pool));
  return await treemapPage(found);
}
