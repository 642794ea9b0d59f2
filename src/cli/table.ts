/** Text in columns: the first to the left, others to the right unless `left` names them. */
export function table(rows: readonly (readonly string[])[], left: readonly number[] = [0]): string {
  const widths: number[] = [];
  for (const row of rows)
    row.forEach((cell, at) => (widths[at] = Math.max(widths[at] ?? 0, Bun.stringWidth(cell))));
  return rows
    .map((row) => {
      const cells = row.map((cell, at) => {
        const padding = " ".repeat(widths[at] - Bun.stringWidth(cell));
        return left.includes(at) ? cell + padding : padding + cell;
      });
      return `${cells.join("  ").trimEnd()}\n`;
    })
    .join("");
}

/** Bytes in millions, as disks count them: 1.5 MB. */
export function megabytes(bytes: number): string {
  const digits = Math.abs(bytes) < 10e6 ? 2 : 1;
  return `${(bytes / 1e6).toFixed(digits)} MB`;
}

/** A share of a whole: 12.3 %. */
export function share(part: number, whole: number): string {
  return `${(whole === 0 ? 0 : (100 * part) / whole).toFixed(1)} %`;
}
