import { InvalidArgumentError } from "commander";
import type { Measured } from "./bench.ts";

/** Prints rows in columns, the names in one of `nameWidth`. */
export class Table {
  constructor(readonly nameWidth: number) {
    this.#print(["row", "value", "unit", "roofline", "peer", "x peer", "target"]);
  }

  /** Prints a row; `more` goes behind its target. */
  row(row: Measured, more = ""): void {
    const percent = row.ofRoofline === null ? "" : `${(row.ofRoofline * 100).toFixed(0)} %`;
    const met = row.met === undefined ? "" : row.met ? "met: " : "MISSED: ";
    const target = row.target === undefined ? "" : met + row.target;
    const cells = [row.name, figure(row.value), row.unit, percent, figure(row.peer)];
    cells.push(figure(row.ofPeer), [target, more].filter((part) => part !== "").join("; "));
    this.#print(cells);
  }

  #print(cells: string[]): void {
    const widths = [this.nameWidth, 11, 8, 9, 8, 7, 0];
    const line = cells.map((cell, i) =>
      i === 0 || i > 5 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]),
    );
    process.stdout.write(`${line.join("  ").trimEnd()}\n`);
  }
}

/** A number in three digits or whole; nothing for null. */
export function figure(value: number | null): string {
  if (value === null) return "";
  return Math.abs(value) >= 1000 ? value.toFixed(0) : value.toPrecision(3);
}

/** Reads a regular expression of the command line. */
export function parseRegex(text: string): RegExp {
  try {
    return new RegExp(text);
  } catch (cause) {
    throw new InvalidArgumentError((cause as Error).message);
  }
}

/** Reads a whole number in [least, most] of the command line. */
export function parseCount(least: number, most: number): (text: string) => number {
  return (text) => {
    const count = Number(text);
    if (Number.isInteger(count) && count >= least && count <= most) return count;
    throw new InvalidArgumentError(`it must be an integer from ${least} to ${most}.`);
  };
}

/** Reads a positive number of the command line. */
export function parsePositive(text: string): number {
  const value = Number(text);
  if (value > 0 && Number.isFinite(value)) return value;
  throw new InvalidArgumentError("it must be a number above 0.");
}

/** The names of rows, one a line, for whoever asked for others. */
export function namesOf(rows: readonly { readonly name: string }[]): string {
  return rows.map(({ name }) => `  ${name}\n`).join("");
}
