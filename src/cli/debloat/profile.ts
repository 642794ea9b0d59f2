import {
  type LibraryFigures,
  mergeProfiles,
  type Profile,
  profileFigures,
  subtractProfiles,
} from "../../debloat/profile/profile.ts";
import { counted } from "../../shown.ts";
import { formatProfile } from "../../debloat/profile/text.ts";
import { requireWritable, writeWhole } from "../outputs.ts";
import { megabytes, table } from "../table.ts";
import { readProfile } from "./trace.ts";

/** How these commands name a profile. */
const argument = "<profile>";

/** Writes one profile with the contents of all. */
export async function profileMerge(files: string[], options: { output: string }): Promise<number> {
  requireWritable({ "--output": options.output });
  const merged = mergeProfiles(...files.map((file) => readProfile(file, argument)));
  await writeWhole(options.output, formatProfile(merged));
  return 0;
}

/**
 * Prints what only one of two profiles holds.
 * @returns 0 when they hold the same, else 1, as diff does
 */
export function profileDiff(a: string, b: string, options: { names?: boolean }): number {
  const [first, second] = [a, b].map((file) => readProfile(file, argument));
  const left = subtractProfiles(first, second);
  const right = subtractProfiles(second, first);
  const same = [left, right].every(isEmpty);
  if (same) {
    process.stdout.write("both hold the same\n");
    return 0;
  }
  process.stdout.write(`only in ${a}:\n${describe(left, options.names)}`);
  process.stdout.write(`only in ${b}:\n${describe(right, options.names)}`);
  return 1;
}

/** Prints a profile's runs, and figures of each library. */
export function profileShow(file: string, options: { json?: boolean; names?: boolean }): number {
  const profile = readProfile(file, argument);
  if (options.json) {
    const { runs, unresolved } = profile;
    const figures = { runs, libraries: profileFigures(profile), unresolved };
    process.stdout.write(`${JSON.stringify(figures, null, 2)}\n`);
    return 0;
  }
  for (const { command, date, host, gpu, driver, cuda } of profile.runs) {
    const where = gpu === null ? "no GPU" : `${gpu}, driver ${driver ?? "unknown"}, CUDA ${cuda}`;
    process.stdout.write(`${date}  ${where}, host code: ${host}\n  ${command.join(" ")}\n`);
  }
  process.stdout.write(describe(profile, options.names));
  return 0;
}

function isEmpty({ libraries, unresolved }: Profile): boolean {
  const { kernels, cubins } = unresolved;
  return Object.keys(libraries).length + kernels.length + cubins.length === 0;
}

function describe(profile: Profile, names = false): string {
  const { libraries, unresolved } = profile;
  if (isEmpty(profile)) return "  nothing\n";
  const head = ["  library", "kernels", "images", "globals", "pages", "functions", "build"];
  const rows = profileFigures(profile).map(rowOf);
  const lines = rows.length === 0 ? "" : table([head, ...rows], [0, 6]);
  const [kernels, images] = [unresolved.kernels.length, unresolved.cubins.length];
  const rest =
    kernels + images === 0
      ? ""
      : `  in no library: ${counted(kernels, "kernel")}, ${counted(images, "image")}\n`;
  const listed = [...Object.values(libraries), unresolved].flatMap(({ kernels }) => kernels);
  return lines + rest + (names ? listed.map((name) => `  ${name}\n`).join("") : "");
}

function rowOf(library: LibraryFigures): string[] {
  const { id, path, kernels, cubins, globals, pageBytes, functions, functionBytes } = library;
  return [
    `  ${path.slice(path.lastIndexOf("/") + 1)}`,
    ...[kernels, cubins, globals].map(String),
    megabytes(pageBytes),
    functions === 0 ? "0" : `${functions} (${megabytes(functionBytes)})`,
    id.length > 24 ? `${id.slice(0, 20)}...` : id,
  ];
}
