import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { LibraryError } from "../errors.ts";

/** Where flashbun's libraries run, by `process.platform` and `process.arch`: their npm package. */
const platformPackages: Readonly<Record<string, string>> = {
  "linux-x64": "@flashbun/linux-x64-gnu",
};

/** The library that FLASHBUN_LIB names; others lie beside it. */
export const mainLibrary = "libflashbun.so";

/** Whether this module is part of what `bun build` made. */
const isBundled = import.meta.file !== "locate.ts";

const supported =
  "flashbun runs on Linux x64 with glibc 2.28 or later, " +
  "not on musl, macOS, Windows or other processors";

/**
 * The path of one of flashbun's libraries: FLASHBUN_LIB or beside it, in the local build, beside
 * the program, in the bundle that the program is, or in the platform's package.
 * @param fileName the library that FLASHBUN_LIB names, or one beside it
 * @throws LibraryError when it is in none of these places
 */
export function locate(fileName: string): string {
  const given = process.env["FLASHBUN_LIB"];
  if (given && fileName === mainLibrary) {
    // A path that the user chose is right or wrong: nothing else is used instead.
    if (existsSync(given)) return resolve(given);
    throw new LibraryError(
      `no ${fileName} was found at FLASHBUN_LIB=${given}. ` +
        "Fix: correct the path, or unset FLASHBUN_LIB.",
    );
  }
  const folders = [
    ...(given ? [dirname(resolve(given))] : []),
    join(import.meta.dir, "..", "..", "zig-out", "lib"),
    dirname(process.execPath),
  ];
  const paths = folders.map((folder) => join(folder, fileName));
  const near = paths.find((path) => existsSync(path));
  if (near !== undefined) return near;
  const inBundle = isBundled ? bundledPath(fileName) : undefined;
  if (inBundle !== undefined) return inBundle;
  // Last, since the report that tells glibc from musl takes a while.
  const folder = platformFolder();
  if (folder !== undefined) paths.push(join(folder, fileName));
  if (folder !== undefined && existsSync(paths.at(-1)!)) return paths.at(-1)!;
  throw new LibraryError(`no ${fileName} was found. ${whyNot(paths)}`);
}

/**
 * Where `bun build` put the library: into an executable, or beside the bundle. It finds only paths
 * that are written out, and takes those in `try` that are not there; undefined where it had none.
 */
function bundledPath(fileName: string): string | undefined {
  const found = fromPackage(fileName) ?? fromBuild(fileName);
  return typeof found === "string" ? resolve(import.meta.dir, found) : undefined;
}

function fromPackage(fileName: string): unknown {
  try {
    switch (fileName) {
      case "libflashbun.so":
        return require("@flashbun/linux-x64-gnu/libflashbun.so");
      case "libflashbun-trace.so":
        return require("@flashbun/linux-x64-gnu/libflashbun-trace.so");
      case "libflashbun-pager.so":
        return require("@flashbun/linux-x64-gnu/libflashbun-pager.so");
      case "libflashbun-redirect.so":
        return require("@flashbun/linux-x64-gnu/libflashbun-redirect.so");
    }
  } catch {
    return undefined;
  }
}

function fromBuild(fileName: string): unknown {
  try {
    switch (fileName) {
      case "libflashbun.so":
        return require("../../zig-out/lib/libflashbun.so");
      case "libflashbun-trace.so":
        return require("../../zig-out/lib/libflashbun-trace.so");
      case "libflashbun-pager.so":
        return require("../../zig-out/lib/libflashbun-pager.so");
      case "libflashbun-redirect.so":
        return require("../../zig-out/lib/libflashbun-redirect.so");
    }
  } catch {
    return undefined;
  }
}

/** The installed platform package's folder; none where npm left it out. */
function platformFolder(): string | undefined {
  const name = platformPackage();
  if (name === undefined) return undefined;
  try {
    return dirname(createRequire(import.meta.url).resolve(`${name}/package.json`));
  } catch {
    return undefined;
  }
}

/** One sentence for a platform that has no package, another for an installation that lost it. */
function whyNot(tried: readonly string[]): string {
  const name = platformPackage();
  if (name === undefined) {
    const here = `${process.platform} ${process.arch}${isMusl() ? " with musl" : ""}`;
    return `${supported}; this is ${here}. Fix: use a machine that is supported.`;
  }
  const reinstall = "reinstall flashbun with its optional dependencies";
  const fix = isBundled
    ? `${reinstall} and build again, or copy its libflashbun*.so next to the executable, ` +
      `to ${dirname(process.execPath)}`
    : reinstall;
  const places = `Tried: ${tried.join("; ")}; package ${name}.`;
  return `${places} Fix: ${fix}, or set FLASHBUN_LIB to the library.`;
}

function platformPackage(): string | undefined {
  return isMusl() ? undefined : platformPackages[`${process.platform}-${process.arch}`];
}

/** Whether this Bun runs on a Linux without glibc: its report then names no version of it. */
function isMusl(): boolean {
  if (process.platform !== "linux") return false;
  const report = process.report.getReport() as { header: { glibcVersionRuntime?: string } };
  return report.header.glibcVersionRuntime === undefined;
}
