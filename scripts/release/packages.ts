/** The npm packages of a release: `flashbun`, and one with the libraries for each platform. */
import { copyFileSync, existsSync, globSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FB_ABI_VERSION } from "../../src/ffi/params.gen.ts";
import { hash, read, root } from "../toolchain.ts";

/** What of a package.json a release looks at. */
export interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

/** What a platform package was built as; it stays on this machine. */
interface BuildRecord {
  readonly version: string;
  readonly abi: number;
  /** SHA-256 by file name. */
  readonly libraries: Readonly<Record<string, string>>;
}

/** The libraries in every platform package. */
export const libraries: readonly string[] = [
  "libflashbun.so",
  ...["trace", "pager", "redirect"].map((name) => `libflashbun-${name}.so`),
];

/** Folders of the platform packages, relative to the root. */
export const platforms: readonly string[] = globSync("platforms/*/package.json", { cwd: root })
  .map((path) => path.replace(/\/package\.json$/, ""))
  .sort();

/** A package's manifest, by its folder relative to the root. */
export function manifestOf(folder = "."): Manifest {
  return JSON.parse(read(join(folder, "package.json"))) as Manifest;
}

/** Puts a build's libraries into a platform's package, and notes what they are. */
export function fillPlatform(platform: string, libraryFolder: string): void {
  const folder = join(root, platform);
  for (const name of libraries) copyFileSync(join(libraryFolder, name), join(folder, name));
  copyFileSync(join(root, "LICENSE"), join(folder, "LICENSE"));
  const record: BuildRecord = {
    version: manifestOf(platform).version,
    abi: FB_ABI_VERSION,
    libraries: Object.fromEntries(libraries.map((name) => [name, fingerprint(folder, name)])),
  };
  writeFileSync(join(folder, "build.json"), `${JSON.stringify(record, null, 2)}\n`);
}

/** Sentences about what keeps the packages from being packed together; none: all is well. */
export function faults(): string[] {
  const main = manifestOf();
  const versions = platforms.flatMap((platform) => versionFaults(main, platform));
  return [...versions, ...buildFaults(main, platforms)];
}

/**
 * The same of flashbun alone, which holds sources and is packed to try them: a library that was
 * built in this clone will do, where no package holds another.
 */
export function sourceFaults(): string[] {
  const main = manifestOf();
  const versions = platforms.flatMap((platform) => versionFaults(main, platform));
  const filled = platforms.filter((platform) => existsSync(join(root, platform, "build.json")));
  const isHere = libraries.every((name) => existsSync(join(root, "zig-out", "lib", name)));
  const missing =
    "no library is in zig-out/lib, so nobody tried what is packed. Fix: bun run build.";
  return [...versions, ...buildFaults(main, filled), ...(isHere ? [] : [missing])];
}

/** Sentences about versions and dependencies that do not belong together. */
export function versionFaults(main: Manifest, platform: string): string[] {
  const { name, version } = manifestOf(platform);
  const found: string[] = [];
  if (version !== main.version)
    found.push(
      `${platform}/package.json has version ${version}, flashbun has ${main.version}. ` +
        "Fix: give both the same version.",
    );
  const wanted = main.optionalDependencies?.[name];
  if (wanted !== main.version)
    found.push(
      `flashbun ${main.version} asks for ${name} ${wanted ?? "in no version"}. ` +
        `Fix: set "${name}": "${main.version}" in its optionalDependencies.`,
    );
  return found;
}

function buildFaults(main: Manifest, among: readonly string[]): string[] {
  return among
    .filter((platform) => !isBuilt(platform, main.version))
    .map(
      (platform) =>
        `${manifestOf(platform).name} ${main.version} is not built, so nothing can be packed. ` +
        "Fix: bun run release --dry-run builds and packs both packages.",
    );
}

function isBuilt(platform: string, version: string): boolean {
  const folder = join(root, platform);
  const path = join(folder, "build.json");
  if (!existsSync(path)) return false;
  const record = JSON.parse(readFileSync(path, "utf8")) as BuildRecord;
  const whole = libraries.every(
    (name) =>
      existsSync(join(folder, name)) && record.libraries[name] === fingerprint(folder, name),
  );
  return whole && record.version === version && record.abi === FB_ABI_VERSION;
}

function fingerprint(folder: string, name: string): string {
  return hash(readFileSync(join(folder, name), "latin1"));
}
