/**
 * RECORD files of Python packages: paths of installed files with their SHA-256 and bytes (PyPA's
 * "Recording installed projects").
 */
import { readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { hashFile, writeAtomically } from "../files.ts";

/** Whether a file is one. */
export function isRecord(name: string): boolean {
  return /\.dist-info\/RECORD$/.test(name);
}

/**
 * Writes a RECORD with the sums of files that have changed.
 * @param name where it is in the tree
 * @param changed new files by their place in the tree
 * @returns whether it names any of them: otherwise nothing is written
 */
export function writeRecord(
  { path, name, output }: { path: string; name: string; output: string },
  changed: ReadonlyMap<string, { readonly path: string; readonly bytes: number }>,
): boolean {
  const text = readFileSync(path, "utf8");
  let isChanged = false;
  const lines = text.split(/(?<=\n)/).map((line) => {
    const parts = /^("(?:[^"]|"")*"|[^,]*),([^,]*),([^,\r\n]*)(\r?\n?)$/.exec(line);
    if (parts === null || parts[2] === "") return line;
    const [, field, , , end] = parts;
    const named = field.startsWith('"') ? field.slice(1, -1).replaceAll('""', '"') : field;
    const file = changed.get(normalize(join(dirname(dirname(name)), named)));
    if (file === undefined) return line;
    isChanged = true;
    const sum = Buffer.from(hashFile(file.path), "hex").toString("base64url");
    return `${field},sha256=${sum},${file.bytes}${end}`;
  });
  if (isChanged)
    writeAtomically(output, 0o644, (writer) => writer.write(Buffer.from(lines.join(""))));
  return isChanged;
}
