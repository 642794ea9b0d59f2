import { readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";

/** The repository's root. */
export const root = join(import.meta.dir, "..", "..");

const listCommand = ["git", "ls-files", "-co", "--exclude-standard", "-z"];

/** A text file of the project. */
export interface Source {
  /** Relative to the root, with slashes. */
  path: string;
  text: string;
  lines: string[];
}

/** The files that git tracks or would track, by glob patterns relative to the root. */
export function filesOf(...patterns: string[]): string[] {
  const listed = Bun.which("git") === null ? undefined : Bun.spawnSync(listCommand, { cwd: root });
  const paths =
    listed?.exitCode === 0
      ? listed.stdout.toString().split("\0").filter(Boolean)
      : patterns.flatMap((pattern) => [...new Bun.Glob(pattern).scanSync({ cwd: root })]);
  const globs = patterns.map((pattern) => new Bun.Glob(pattern));
  const wanted = paths.filter((path) => globs.some((glob) => glob.match(path)));
  return [...new Set(wanted)].sort();
}

/** Reads the files that match; one that vanished since it was listed is left out. */
export function sourcesOf(...patterns: string[]): Source[] {
  return filesOf(...patterns).flatMap((path) => {
    try {
      const text = readFileSync(join(root, path), "utf8");
      return [{ path, text, lines: text.split("\n") }];
    } catch {
      return [];
    }
  });
}

/** The modules that a file imports, types included: paths from the root, or bare names. */
export function importsOf({ path, text }: Source): string[] {
  const found: string[] = [];
  const code = text.replace(/\/\*[\s\S]*?\*\//g, "");
  const pattern =
    /(?:^|\n)\s*(?:import|export)\b[^;]*?\bfrom\s*"([^"]+)"|(?:^|\n)import\s*"([^"]+)"|(?:import|require|require\.resolve|URL|Worker)\(\s*"([^"]+)"|<reference path="([^"]+)"/g;
  for (const match of code.matchAll(pattern)) {
    const name = match[1] ?? match[2] ?? match[3] ?? match[4];
    const from = dirname(join(root, path));
    found.push(name.startsWith(".") ? relative(root, normalize(join(from, name))) : name);
  }
  return found;
}
