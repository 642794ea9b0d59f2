import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { LibraryError } from "../../errors.ts";

/** The small libraries that go into other programs: zig/trace says what each does. */
export type Companion = "trace" | "pager" | "redirect";

/**
 * The path of one of them: beside the library of FLASHBUN_LIB, in the local build, beside the
 * program, or in the platform's package.
 * @throws LibraryError when it is in none of these places
 */
export function companionPath(companion: Companion): string {
  const name = `libflashbun-${companion}.so`;
  const folders = companionFolders();
  const found = folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
  if (found !== undefined) return found;
  throw new LibraryError(
    `no ${name} was found in ${folders.join(", ")}. It runs on Linux with glibc 2.28 or later. ` +
      "Fix: reinstall flashbun, or build it with `bun run build`.",
  );
}

function companionFolders(): string[] {
  const given = process.env["FLASHBUN_LIB"];
  const folders = [
    join(import.meta.dir, "..", "..", "..", "zig-out", "lib"),
    dirname(process.execPath),
    ...platformFolder(),
  ];
  return given ? [dirname(given), ...folders] : folders;
}

function platformFolder(): string[] {
  try {
    const require = createRequire(import.meta.url);
    const name = `@flashbun/${process.platform}-${process.arch}`;
    return [dirname(require.resolve(`${name}/package.json`))];
  } catch {
    return [];
  }
}
