import { figure } from "../table.ts";
import { isTime, type Measurement, type PaperRow, type PaperTable, ratioOf } from "./table.ts";

/** A row and what was measured of it. */
export interface PaperResult {
  row: PaperRow;
  measured: Measurement;
}

/** Headings of a table's columns; `here`: FlashInfer ran beside. */
export function headingsOf({ other, paperOther }: PaperTable, here: boolean): string[] {
  const columns = ["Shape", "FlashInfer", paperOther, "ratio", "flashbun", other, "ratio"];
  return here ? [...columns, "FlashInfer here", "ratio"] : columns;
}

/** A row's cells, the paper's before ours. */
export function cellsOf(
  { unit }: PaperTable,
  { row, measured }: PaperResult,
  here: boolean,
): string[] {
  const { paper } = row;
  const { flashinfer = null } = measured;
  const beside = [figure(flashinfer), times(ratioOf(unit, measured.flashbun, flashinfer))];
  const theirs = paper === null ? null : ratioOf(unit, paper.flashinfer, paper.other);
  const ours = ratioOf(unit, measured.flashbun, measured.other);
  return [
    row.shape,
    figure(paper?.flashinfer ?? null),
    figure(paper?.other ?? null),
    times(theirs),
    figure(measured.flashbun),
    figure(measured.other),
    times(ours),
    ...(here ? beside : []),
  ];
}

function times(ratio: number | null): string {
  return ratio === null ? "" : `${ratio.toFixed(2)}x`;
}

/** The page docs/paper.md, in Markdown. */
export function pageOf(
  machine: string,
  day: string,
  results: readonly { table: PaperTable; rows: readonly PaperResult[] }[],
): string {
  const head = [
    "# The FlashInfer paper's kernel tables, measured again",
    wrapped(
      "FlashInfer (arXiv 2501.01005) measured its kernels on an H100 80 GB SXM, CUDA 12.4, f16. " +
        "`bun run bench:paper` measures the same shapes here, in f16, beside what PyTorch " +
        "offers in the same run, and writes this page. The first columns are the paper's own " +
        "figures: compare ratios, not rates, since the machines differ. A ratio says how many " +
        "times as fast as the column before it.",
    ),
    wrapped(`Measured on ${day}: ${machine}.`),
  ];
  const parts = results.flatMap(({ table, rows }) => {
    const here = rows.some(({ measured }) => measured.flashinfer !== undefined);
    const cells = rows.map((row) => cellsOf(table, row, here));
    return [
      `## ${table.title}`,
      `In ${table.unit}${isTime(table.unit) ? ": small is fast" : ""}.`,
      markdown(headingsOf(table, here), cells),
      table.notes.map((note) => wrapped(`- ${note}`, "  ")).join("\n"),
    ];
  });
  return `${[...head, ...parts].join("\n\n")}\n`;
}

/** Lines of up to 100 columns, all but the first indented. */
export function wrapped(text: string, indent = ""): string {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines.at(-1)!;
    if (line.length + 1 + word.length > 100) lines.push(indent + word);
    else lines[lines.length - 1] = line === "" ? word : `${line} ${word}`;
  }
  return lines.join("\n");
}

export function markdown(headings: string[], rows: string[][]): string {
  const line = (cells: string[]) => `| ${cells.join(" | ")} |`;
  const rule = headings.map((_, i) => (i === 0 ? "---" : "---:"));
  return [line(headings), line(rule), ...rows.map(line)].join("\n");
}
