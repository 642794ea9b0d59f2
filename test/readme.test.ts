import { describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as flashbun from "../src/index.ts";
import { readmeProgram } from "./support/readme.ts";
import { filesOf, root } from "./support/sources.ts";

const readme = readFileSync(join(root, "README.md"), "utf8");
const pages = filesOf("*.md", "docs/**/*.md");

/** The first column of the table under a heading, without its marks. */
function column(heading: string): string[] {
  const section = readme.split(`\n## ${heading}\n`)[1].split("\n## ")[0];
  const rows = section.split("\n").filter((line) => line.startsWith("|"));
  return rows.slice(2).map((row) => row.split("|")[1].trim());
}

function flashbunSays(...words: string[]): string {
  const command = [process.execPath, "src/cli/main.ts", ...words];
  return Bun.spawnSync(command, { cwd: root }).stdout.toString();
}

describe("the README", () => {
  test("prints a program that runs as it stands", () => {
    const folder = mkdtempSync(join(tmpdir(), "flashbun-readme-"));
    try {
      mkdirSync(join(folder, "node_modules"));
      symlinkSync(root, join(folder, "node_modules", "flashbun"));
      const last = "process.stdout.write(JSON.stringify([...out.toFloat64Array()]));\n";
      const path = join(folder, "program.ts");
      writeFileSync(path, `${readmeProgram()}\n${last}`);
      const run = Bun.spawnSync([process.execPath, path], { cwd: folder });
      expect(run.stderr.toString()).toBe("");
      const values = JSON.parse(run.stdout.toString()) as number[];
      expect(values).toHaveLength(6 * 32 * 128);
      expect(values.every((value) => Number.isFinite(value) && value !== 0)).toBe(true);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test("lists the options that flashbun replay has", () => {
    const help = flashbunSays("replay", "--help");
    const options = [...help.matchAll(/^ +(?:-\w, )?(--[\w-]+(?: <\w+>)?)/gm)].map(([, o]) => o);
    const listed = column("Replaying a trace").map((cell) => cell.replaceAll("`", ""));
    expect(listed).toEqual(options.filter((option) => option !== "--help"));
  });

  test("lists the environment variables that the sources read", () => {
    const sources = new Bun.Glob("src/**/*.ts").scanSync({ cwd: root });
    const read = [...sources].flatMap((path) => {
      const text = readFileSync(join(root, path), "utf8");
      const taken = [...text.matchAll(/\{([^{}]*)\} = process\.env/g)].map(([, names]) => names);
      // Launchers say in many variables who a process is.
      if (path === "src/comm/ranks.ts") taken.push(text.replaceAll(/\/\*.*?\*\//gs, ""));
      return [
        ...[...text.matchAll(/\benv\["(\w+)"|(?<!\bcode)(?: =|:) "(FLASHBUN_\w+)"/g)].map(
          ([, given, kept]) => given ?? kept,
        ),
        ...taken.flatMap((names) => names.match(/\b(RANK|[A-Z]+(_[A-Z]+)+)\b/g) ?? []),
      ];
    });
    const cells = column("Environment variables").join(", ").replaceAll("`", "").split(", ");
    expect(cells.filter((name) => name !== "SEED").sort()).toEqual([...new Set(read)].sort());
  });

  test("names only what the package exports", () => {
    const section = readme.split("\n## The main pieces\n")[1].split("\n## Replaying")[0];
    const called = [...section.matchAll(/(?<![.\w])([a-z]\w+)\(/g)].map(([, name]) => name);
    expect(called.length).toBeGreaterThan(8);
    expect(called.filter((name) => !(name in flashbun) && name !== "run")).toEqual([]);
  });
});

/** Names by which links find the headings of a page. */
function anchorsOf(path: string): string[] {
  const text = readFileSync(path, "utf8").replace(/^```.*?^```$/gms, "");
  return [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
    heading
      .toLowerCase()
      .replace(/[^\w -]/g, "")
      .replaceAll(" ", "-"),
  );
}

test("links between pages lead to a file, and to a heading where they name one", () => {
  const broken = pages.flatMap((page) => {
    const text = readFileSync(join(root, page), "utf8").replace(/^```.*?^```$/gms, "");
    return [...text.matchAll(/\]\(([^)#:]*)(?:#([^)]*))?\)/g)].filter(([, file, anchor]) => {
      const path = file === "" ? join(root, page) : join(root, page, "..", file);
      if (!existsSync(path)) return true;
      return anchor !== undefined && !anchorsOf(path).includes(anchor);
    });
  });
  expect(broken.map(([link]) => link)).toEqual([]);
});
