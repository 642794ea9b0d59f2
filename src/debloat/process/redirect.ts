/**
 * Programs that load a library get another file for it, by the redirector (zig/trace/redirect.zig).
 */
import { mkdirSync, realpathSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { Bytes } from "../bytes.ts";
import { fileOffsetOf, readElf } from "../elf/elf.ts";
import { readDynamic } from "../elf/relocations.ts";
import { mapFile } from "../files.ts";

/** A library and what takes its place. */
export interface Replacement {
  readonly original: string;
  readonly replacement: string;
}

/**
 * Prepares a folder for redirected programs: it holds replacements under their originals' paths, as
 * libraries look for their neighbours from where they are.
 * @param folder an empty folder that stays as long as programs run
 * @param redirector path of libflashbun-redirect.so
 * @returns what the environment of a program needs besides its own
 */
export function redirectTo(
  replacements: readonly Replacement[],
  folder: string,
  redirector: string,
): Record<string, string> {
  const root = realpathSync(folder);
  const entries = replacements.map(({ original, replacement }) => {
    const place = join(root, realpathSync(original));
    // The loader gives up folders that are not there before it asks the redirector again.
    for (const path of ["", ...searchedFrom(original)])
      mkdirSync(join(dirname(place), path), { recursive: true });
    symlinkSync(realpathSync(replacement), place);
    const { dev, ino } = statSync(original, { bigint: true });
    const head = Buffer.alloc(24);
    head.writeBigUInt64LE(deviceNumber(dev), 0);
    head.writeBigUInt64LE(ino, 8);
    head.writeBigUInt64LE(BigInt(Buffer.byteLength(root)), 16);
    return Buffer.concat([head, Buffer.from(`${place}\0`)]);
  });
  const table = join(root, "redirect");
  writeFileSync(table, Buffer.concat(entries));
  return { LD_AUDIT: redirector, FLASHBUN_REDIRECT: table };
}

const tag = { names: 5, rpath: 15, runpath: 29 };

/** Folders relative to its own where a library has its neighbours looked for. */
function searchedFrom(library: string): string[] {
  const elf = readElf(new Bytes(mapFile(library).data, library));
  const dynamic = readDynamic(elf);
  const names = dynamic.get(tag.names);
  if (names === undefined) return [];
  return [tag.rpath, tag.runpath].flatMap((key) => {
    const offset = fileOffsetOf(elf, names + (dynamic.get(key) ?? Infinity));
    if (offset === undefined) return [];
    const folders = elf.bytes.text(offset).split(":");
    return folders.flatMap((path) => /^\$(?:ORIGIN|\{ORIGIN\})(\/.*)/.exec(path)?.[1] ?? []);
  });
}

/** The system packs a device's two numbers in a way of its own; the table has them side by side. */
function deviceNumber(packed: bigint): bigint {
  const major = ((packed >> 8n) & 0xfffn) | ((packed >> 32n) & 0xfffff000n);
  const minor = (packed & 0xffn) | ((packed >> 12n) & 0xffffff00n);
  return (major << 32n) | minor;
}
