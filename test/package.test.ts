import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readmeProgram } from "./support/readme.ts";
import { root } from "./support/sources.ts";

const minutes = 60_000;
const program = `${readmeProgram()}\nprocess.stdout.write(\`\${out.toFloat64Array().length}\\n\`);\n`;
const debloat = `import { type Check, Pool, verifyLibrary } from "flashbun/debloat";
export const verify: (original: string, shrunk: string) => Check[] = verifyLibrary;
using pool = new Pool(0);
void pool;
`;
const printed = `${6 * 32 * 128}\n`;
let folder: string;
let project: string;
let tarball: string;

/** Runs a command without what the environment says about flashbun; returns what it printed. */
function run(command: string[], cwd: string, environment: Record<string, string> = {}): string {
  const { FLASHBUN_LIB, ...inherited } = process.env;
  const env = { ...inherited, PATH: `${folder}/bin:${inherited["PATH"]}`, ...environment };
  const { exitCode, stdout, stderr } = Bun.spawnSync(command, { cwd, env });
  const said = `${stdout}${stderr}`;
  if (exitCode !== 0) throw new Error(`${command.join(" ")} exited with ${exitCode}:\n${said}`);
  return stdout.toString();
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "flashbun-package-"));
  project = join(folder, "project");
  mkdirSync(join(folder, "bin"));
  mkdirSync(project);
  // The prepack script names `bun`, which need not be on the PATH under this name.
  symlinkSync(process.execPath, join(folder, "bin", "bun"));
  run([process.execPath, "pm", "pack", "--destination", folder], root);
  const { name, version } = await Bun.file(join(root, "package.json")).json();
  tarball = join(folder, `${name}-${version}.tgz`);
  await Bun.write(join(project, "package.json"), `{ "private": true, "type": "module" }\n`);
  await Bun.write(join(project, "program.ts"), program);
  await Bun.write(join(project, "debloat.ts"), debloat);
  run([process.execPath, "add", "--ignore-scripts", "--prefer-offline", tarball], project);
}, 5 * minutes);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("the package", () => {
  test("holds sources, declarations, pages, the library, and nothing else", async () => {
    const archive = new Bun.Archive(await Bun.file(tarball).bytes());
    const paths = [...(await archive.files()).keys()].map((path) => path.replace("package/", ""));
    const wanted = ["package.json", "README.md", "LICENSE", "src/index.ts", "src/cli/main.ts"];
    wanted.push(
      "kernels/params/types.h",
      "src/replay/report.html",
      "src/replay/report-page.js",
      "types/index.d.ts",
      "zig-out/lib/libflashbun.so",
      ...["trace", "pager", "redirect"].map((name) => `zig-out/lib/libflashbun-${name}.so`),
    );
    expect(paths).toEqual(expect.arrayContaining(wanted));
    const known =
      /^(src|kernels|types|docs)\/|^(package\.json|README\.md|LICENSE|zig-out\/lib\/libflashbun(-\w+)?\.so)$/;
    expect(paths.filter((path) => !known.test(path))).toEqual([]);
  });

  test("runs the README's program where it is installed", () => {
    expect(run([process.execPath, "program.ts"], project)).toBe(printed);
  });

  test("has a second door", () => {
    expect(run([process.execPath, "debloat.ts"], project)).toBe("");
  });

  test("brings its command", () => {
    const command = join(project, "node_modules", ".bin", "flashbun");
    expect(run([process.execPath, command, "--version"], project)).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  test(
    "satisfies a strict tsc that knows nothing of Bun",
    async () => {
      const strict = {
        ...{ strict: true, exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true },
        ...{ noImplicitOverride: true, noPropertyAccessFromIndexSignature: true },
        ...{ noImplicitReturns: true, noFallthroughCasesInSwitch: true, isolatedModules: true },
        ...{ noUnusedLocals: true, noUnusedParameters: true, verbatimModuleSyntax: true },
      };
      const compilerOptions = {
        ...{ ...strict, module: "nodenext", moduleResolution: "nodenext", target: "es2022" },
        ...{ skipLibCheck: false, noEmit: true, types: [] },
      };
      const files = ["checked.ts", "typed.ts", "debloat.ts"];
      await Bun.write(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, files }));
      await Bun.write(join(project, "checked.ts"), readmeProgram());
      copyFileSync(join(root, "test", "variant", "typed.ts"), join(project, "typed.ts"));
      const compiler = join(root, "node_modules", "typescript", "bin", "tsc");
      expect(run([process.execPath, compiler, "-p", "."], project)).toBe("");
    },
    minutes,
  );

  test(
    "compiles into one executable, with the library beside it or named",
    () => {
      const elsewhere = join(folder, "elsewhere");
      const executable = join(elsewhere, "program");
      const library = join(root, "zig-out", "lib", "libflashbun.so");
      mkdirSync(elsewhere);
      const build = ["build", "--compile", "program.ts", "--outfile", executable];
      run([process.execPath, ...build], project);
      expect(run([executable], "/", { FLASHBUN_LIB: library })).toBe(printed);
      expect(() => run([executable], "/")).toThrow("no libflashbun.so was found");
      copyFileSync(library, join(elsewhere, "libflashbun.so"));
      expect(run([executable], "/")).toBe(printed);
    },
    minutes,
  );
});
