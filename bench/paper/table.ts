import type { GpuBench } from "../gpu/bench.ts";

/** What the paper gives for a row, in the table's unit. */
export interface PaperFigure {
  flashinfer: number;
  /** What it is compared with there. */
  other: number;
}

/** A row measured here. */
export interface Measurement {
  /** In the table's unit. */
  flashbun: number;
  /** What it is compared with; null where that does not run here. */
  other: number | null;
  /** FlashInfer in the same run, where it can be imported and the table asks it. */
  flashinfer?: number | null;
}

/** A row of a table: a shape, what the paper says of it, and how it is measured. */
export interface PaperRow {
  shape: string;
  /** Null where the paper has no such row, or its chart cannot be read. */
  paper: PaperFigure | null;
  measure(bench: GpuBench): Promise<Measurement>;
}

/** A table or chart of the FlashInfer paper (arXiv 2501.01005) that can be measured again. */
export interface PaperTable {
  id: string;
  title: string;
  /** Times are better when small, all else when large. */
  unit: "us" | "ms" | "TFLOP/s" | "% of the read rate" | "% of the matrix product";
  /** What the paper compares with, and what stands for it here. */
  paperOther: string;
  other: string;
  /** Whether FlashInfer is asked, too, where it can be imported. */
  asksFlashInfer?: boolean;
  /** What differs in the set-up, in sentences. */
  notes: readonly string[];
  rows: readonly PaperRow[];
}

/** Times as fast as the other; null where one is missing. */
export function ratioOf(unit: PaperTable["unit"], mine: number, other: number | null) {
  if (other === null) return null;
  return isTime(unit) ? other / mine : mine / other;
}

/** Whether small is fast. */
export function isTime(unit: PaperTable["unit"]): boolean {
  return unit === "us" || unit === "ms";
}
