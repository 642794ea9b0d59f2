/** Checks a shrunk library against its original, by reading both: nothing is loaded or run. */
import { DebloatError } from "../../errors.ts";
import { fileOffsetOf, loadedSegments } from "../elf/elf.ts";
import { countOf, joinRanges, type Ranges, subtractRanges } from "../elf/ranges.ts";
import { hashFile, mapFile } from "../files.ts";
import { isShrunk, type Library, readLibrary, shrunkMarkBytes } from "../library.ts";
import { type PageRun, readSidecar } from "../shrink/sidecar.ts";
import { compareDevice, compareLoose, type DeviceComparison } from "./device.ts";
import { compareMemory, type MemoryComparison } from "./memory.ts";

/** One thing that was checked. */
export interface Check {
  readonly name: string;
  /** What was seen, or why it was not checked. */
  readonly detail: string;
  readonly verdict: "right" | "wrong" | "not checked";
  /** What is wrong, in sentences. */
  readonly problems: readonly string[];
}

/** Most sentences per check: one flaw may show at every kernel. */
const problemsMax = 20;

/** A check that passes when no problem was found. */
export function checked(name: string, detail: string, problems: readonly string[]): Check {
  const verdict = problems.length === 0 ? "right" : "wrong";
  return { name, detail, verdict, problems: problems.slice(0, problemsMax) };
}

/**
 * Compares a shrunk library with its original: what the loader maps, fat binaries with every
 * pointer to them and every image and kernel that is left, and, with its sidecar, that the original
 * comes back.
 * @param sidecar the file that holds what was removed; without it host code may not be missing
 * @throws DebloatError when a file cannot be read, or `shrunk` was not written by debloat
 */
export function verifyLibrary(original: string, shrunk: string, sidecar?: string): Check[] {
  const before = readLibrary(mapFile(original).data, original);
  const after = readShrunk(shrunk);
  if (before.buildId !== after.buildId)
    throw new DebloatError(
      shrunk,
      `its build ${after.buildId ?? "without an id"} is not that of ${original}`,
      "give the library that it was shrunk from.",
    );
  const memory = compareMemory(before, after);
  const device = compareDevice(before, after);
  const loose = compareLoose(before, memory.missingLoose);
  const missing = countOf(memory.missingText);
  const memoryDetail =
    `${memory.sameBytes} bytes are where and what they were` +
    (missing === 0 ? "" : `, ${missing} of host code are left out`);
  return [
    checked("memory", memoryDetail, memory.problems),
    checked("fat binaries", describe(device), device.problems),
    ...(before.loose.length === 0
      ? []
      : [
          checked(
            "device code outside fat binaries",
            `${loose.same} images are the same, ${loose.gone} are gone`,
            loose.problems,
          ),
        ]),
    checkSidecar(before, after, memory, sidecar),
  ];
}

function readShrunk(file: string): Library {
  const { data } = mapFile(file);
  if (!isShrunk(data))
    throw new DebloatError(file, "debloat did not write it", "give the output of shrink.");
  // The mark at its end says that it was shrunk; without it, it is a library like any other.
  return readLibrary(data.subarray(0, data.length - shrunkMarkBytes), file);
}

function describe({ containers, pointers, images, kernels }: DeviceComparison): string {
  if (containers === 0) return "there are none";
  const { same, repacked, trimmed, gone } = images;
  const parts = [
    `${pointers} pointers lead to ${containers} containers`,
    `${same} images are the same`,
    ...(repacked === 0 ? [] : [`${repacked} are packed anew`]),
    ...(trimmed === 0
      ? []
      : [`${trimmed} keep ${kernels.left} kernels as they were and lack ${kernels.gone}`]),
    `${gone} are gone`,
  ];
  return parts.join(", ");
}

function checkSidecar(
  before: Library,
  after: Library,
  { missingText, missingLoose }: MemoryComparison,
  sidecar: string | undefined,
): Check {
  const name = "sidecar";
  if (sidecar === undefined)
    return missingText.length === 0
      ? { name, detail: "none was given", verdict: "not checked", problems: [] }
      : checked(name, "", ["host code is left out and no sidecar was given (--sidecar)"]);
  const from = { shrunk: mapFile(after.file).data, sidecar: mapFile(sidecar).data };
  const read = readSidecar(from.sidecar, sidecar);
  const problems: string[] = [];
  if (hashFile(after.file) !== read.shrunkHash) problems.push("it belongs to another library");
  if (hashFile(before.file) !== read.originalHash) problems.push("it is of another original");
  const hasher = new Bun.CryptoHasher("sha256");
  for (const [source, offset, bytes] of read.pieces)
    hasher.update(from[source].subarray(offset, offset + bytes));
  if (hasher.digest("hex") !== read.originalHash)
    problems.push("the original does not come out of it");
  const missing = joinRanges([...missingText, ...missingLoose]);
  problems.push(...pageProblems(before, read.pages, from.sidecar, missing));
  const restored = `the original's ${read.originalBytes} bytes come out of it`;
  const pages = read.pages.length === 0 ? "" : `, with ${read.pages.length} runs of pages`;
  return checked(name, restored + pages, problems);
}

/** What the pager reads: every page that is left out, with the original's bytes and rights. */
function pageProblems(
  { elf }: Library,
  pages: readonly PageRun[],
  data: Uint8Array,
  missing: Ranges,
): string[] {
  const held = joinRanges(pages.map(([address, bytes]) => [address, bytes]));
  const without = countOf(subtractRanges(missing, held));
  const wrong = pages.filter(([address, bytes, offset, rights]) => {
    const home = loadedSegments(elf).find(
      (segment) => address >= segment.address && address < segment.address + segment.fileBytes,
    );
    if (home?.flags !== rights) return true;
    const at = fileOffsetOf(elf, address, bytes);
    const original = at === undefined ? undefined : elf.bytes.slice(at, bytes);
    const held = data.subarray(offset, offset + bytes);
    return original === undefined || Buffer.compare(original, held) !== 0;
  });
  return [
    ...(without === 0 ? [] : [`${without} bytes of its pages could not come back from it`]),
    ...(wrong.length === 0 ? [] : [`${wrong.length} of its runs of pages are not the original's`]),
  ];
}
