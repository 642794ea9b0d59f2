/** What may be in the packages of a release, how large they may be, and what they need of libc. */
import { readFileSync } from "node:fs";
import { libraries } from "./packages.ts";

/** A tarball with its files' sizes in bytes by path. */
export interface Tarball {
  readonly path: string;
  readonly files: ReadonlyMap<string, number>;
}

interface Limits {
  readonly allowed: RegExp;
  readonly required: readonly string[];
  /** Of the tarball itself. */
  readonly megabytesMax: number;
}

/** Of the package of sources. */
export const sourcePackage: Limits = {
  allowed:
    /^(src|kernels|types)\/[^.][^\n]*$|^docs\/(kernels\/)?[\w-]+\.(md|svg|webp)$|^(package\.json|(README|CHANGELOG)\.md|LICENSE)$/,
  required: [
    "package.json",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "src/index.ts",
    "src/cli/main.ts",
    "src/replay/report.html",
    "src/replay/report-page.js",
    "kernels/params/types.h",
    "types/index.d.ts",
    "types/debloat/index.d.ts",
    "types/engine/index.d.ts",
    "types/server/index.d.ts",
  ],
  // Text alone: sources, types and pages. An engine, its models and a server came to attention.
  megabytesMax: 1.5,
};

/** Of a package of libraries. */
export const libraryPackage: Limits = {
  allowed: /^(package\.json|README\.md|LICENSE|libflashbun(-\w+)?\.so)$/,
  required: ["package.json", "README.md", "LICENSE", ...libraries],
  megabytesMax: 2,
};

/** The glibc that build.zig names: what Debian 10 and RHEL 8 have. */
const glibcMinorMax = 28;

/** Reads a packed package. */
export async function openTarball(path: string): Promise<Tarball> {
  const archive = new Bun.Archive(await Bun.file(path).bytes());
  const files = [...(await archive.files())].map(
    ([name, { size }]) => [name.replace(/^package\//, ""), size] as const,
  );
  return { path, files: new Map(files.sort(([a], [b]) => (a < b ? -1 : 1))) };
}

/** Sentences about files that are missing, do not belong there, or are too large. */
export function contentFaults({ path, files }: Tarball, limits: Limits): string[] {
  const { allowed, required, megabytesMax } = limits;
  const found: string[] = [];
  for (const name of files.keys())
    if (
      !allowed.test(name) ||
      (limits === sourcePackage && /\.(so|node|cubin|test\.ts)$/.test(name))
    )
      found.push(`${name} does not belong into ${path}.`);
  for (const name of required) if (!files.has(name)) found.push(`${path} lacks ${name}.`);
  const megabytes = Bun.file(path).size / 1e6;
  if (megabytes > megabytesMax)
    found.push(`${path} has ${megabytes.toFixed(1)} MB, at most ${megabytesMax}.`);
  return found;
}

/** Sentences about a library that asks for a newer glibc than is promised. */
export function glibcFaults(path: string): string[] {
  const text = readFileSync(path, "latin1");
  const newest = Math.max(0, ...[...text.matchAll(/GLIBC_2\.(\d+)/g)].map(([, minor]) => +minor));
  if (newest <= glibcMinorMax) return [];
  return [`${path} needs glibc 2.${newest}, 2.${glibcMinorMax} is promised.`];
}
