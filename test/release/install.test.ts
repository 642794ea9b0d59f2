import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { manifestOf, platforms } from "../../scripts/release/packages.ts";
import { publish } from "../../scripts/release/publish.ts";
import { readmeProgram } from "../support/readme.ts";
import { root } from "../support/sources.ts";
import { type Registry, startRegistry } from "./registry.ts";

const minutes = 60_000;
const last = "process.stdout.write(`${out.toFloat64Array().length}\\n`);\n";
const program = `${readmeProgram()}\n${last}`;
const printed = `${6 * 32 * 128}\n`;
const debloat = `import { type Check, Pool, verifyLibrary } from "flashbun/debloat";
export const verify: (original: string, shrunk: string) => Check[] = verifyLibrary;
using pool = new Pool(0);
void pool;
`;
const { version } = manifestOf();
const bun = process.execPath;
let folder: string;
let registry: Registry | undefined;

/** Runs a command as somebody without flashbun's sources; returns what it printed. */
function run(command: string[], cwd: string, environment: Record<string, string> = {}): string {
  const { exitCode, said, stdout } = tried(command, cwd, environment);
  if (exitCode !== 0) throw new Error(`${command.join(" ")} exited with ${exitCode}:\n${said}`);
  return stdout;
}

function tried(command: string[], cwd: string, environment: Record<string, string> = {}) {
  // Other tests of this process name an emulated GPU or a library of the checkout.
  const foreign = Object.entries(process.env).filter(([name]) => !name.startsWith("FLASHBUN_"));
  const inherited = Object.fromEntries(foreign);
  const PATH = `${folder}/bin:${inherited["PATH"]}`;
  const env = { ...inherited, ...registry!.environment, PATH, ...environment };
  const { exitCode, stdout, stderr } = Bun.spawnSync(command, { cwd, env });
  return { exitCode, stdout: stdout.toString(), said: `${stdout}${stderr}` };
}

/** An empty project with a program in it. */
async function project(name: string): Promise<string> {
  const path = join(folder, name);
  await Bun.write(join(path, "package.json"), `{ "private": true, "type": "module" }\n`);
  await Bun.write(join(path, "program.ts"), program);
  await Bun.write(join(path, "debloat.ts"), debloat);
  return path;
}

const installed = new Map<string, string>();

/** A project that got flashbun by a command, which runs once. */
async function projectBy(name: string, command: string[]): Promise<string> {
  const path = installed.get(name) ?? (await project(name.replace(" ", "-")));
  if (!installed.has(name)) run(command, path);
  installed.set(name, path);
  return path;
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "flashbun-install-"));
  mkdirSync(join(folder, "bin"));
  // The packages' scripts name `bun`, which need not be on the PATH under this name.
  symlinkSync(bun, join(folder, "bin", "bun"));
  registry = await startRegistry(join(folder, "registry"));
  run([bun, "scripts/release/release.ts", "--dry-run"], root);
  const packed = [...platforms, "."].map(manifestOf).map((manifest) => {
    const name = manifest.name.replace("@", "").replace("/", "-");
    return { path: join(root, ".release", `${name}-${version}.tgz`), manifest };
  });
  publish(packed, { ...process.env, ...registry.environment });
}, 10 * minutes);

afterAll(async () => {
  await registry?.[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

const bunAdd: [string, string[]] = ["bun add", [bun, "add", "flashbun"]];

describe.each([bunAdd, ["npm install", ["npm", "install", "flashbun", "--no-audit", "--no-fund"]]])(
  "%s flashbun",
  (name, command) => {
    let path: string;

    beforeAll(async () => {
      path = await projectBy(name, command);
    }, 2 * minutes);

    test("runs the README's program", () => {
      expect(run([bun, "program.ts"], path)).toBe(printed);
    });

    test("has a second door", () => {
      expect(run([bun, "debloat.ts"], path)).toBe("");
    });

    test("brings its command, which finds the platform's library", () => {
      const flashbun = join(path, "node_modules", ".bin", "flashbun");
      expect(run([flashbun, "--version"], path)).toBe(`${version}\n`);
      const library = join(path, "node_modules", "@flashbun", "linux-x64-gnu", "libflashbun.so");
      expect(run([flashbun, "doctor"], path)).toContain(`ok    library     ${library}`);
      const traced = run([flashbun, "debloat", "trace", "-o", "used.json", "--", "true"], path);
      expect(traced).toBe("");
    });
  },
);

describe("another platform gets one sentence", () => {
  const here = "flashbun runs on Linux x64 with glibc 2.28 or later, not on musl, macOS, Windows";
  const cases: [string, string[]][] = [
    ["bun add", [bun, "add", "flashbun", "--os", "darwin", "--cpu", "arm64"]],
    ["npm install", ["npm", "install", "flashbun", "--os=darwin", "--cpu=arm64", "--no-audit"]],
  ];
  test.each(cases)(
    "%s leaves the libraries out, the first use says why",
    async (name, command) => {
      const path = await project(`${name.replace(" ", "-")}-elsewhere`);
      run(command, path);
      expect(existsSync(join(path, "node_modules", "@flashbun"))).toBe(false);
      const lines = ["platform", "arch"].map((key) => {
        const value = key === "platform" ? "darwin" : "arm64";
        return `Object.defineProperty(process, "${key}", { value: "${value}" });\n`;
      });
      await Bun.write(join(path, "elsewhere.ts"), lines.join(""));
      const { exitCode, said } = tried([bun, "--preload", "./elsewhere.ts", "program.ts"], path);
      expect(exitCode).toBe(1);
      expect(said).toContain(`LibraryError: no libflashbun.so was found. ${here}`);
      expect(said).toContain("this is darwin arm64. Fix: use a machine that is supported.");
    },
    2 * minutes,
  );

  test("so does an installation without optional packages, on Linux", async () => {
    const path = await project("omitted");
    run(["npm", "install", "flashbun", "--omit=optional", "--no-audit"], path);
    const { exitCode, said } = tried([bun, "program.ts"], path);
    expect(exitCode).toBe(1);
    expect(said).toContain("package @flashbun/linux-x64-gnu. Fix: reinstall flashbun with its");
  });
});

describe("an installed flashbun", () => {
  let path: string;

  beforeAll(async () => {
    path = await projectBy(...bunAdd);
  }, 2 * minutes);

  const strict = {
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    noImplicitOverride: true,
    noPropertyAccessFromIndexSignature: true,
    noImplicitReturns: true,
    noFallthroughCasesInSwitch: true,
    isolatedModules: true,
    noUnusedLocals: true,
    noUnusedParameters: true,
    verbatimModuleSyntax: true,
    skipLibCheck: false,
    noEmit: true,
    target: "es2022",
    types: [],
  };
  const resolutions = [
    { module: "nodenext", moduleResolution: "nodenext" },
    { module: "preserve", moduleResolution: "bundler" },
  ];
  test.each(resolutions)(
    "satisfies a strict tsc that knows nothing of Bun: %o",
    async (resolution) => {
      const compilerOptions = { ...strict, ...resolution };
      const files = ["checked.ts", "typed.ts", "debloat.ts"];
      await Bun.write(join(path, "tsconfig.json"), JSON.stringify({ compilerOptions, files }));
      await Bun.write(join(path, "checked.ts"), readmeProgram());
      copyFileSync(join(root, "test", "variant", "typed.ts"), join(path, "typed.ts"));
      const compiler = join(root, "node_modules", "typescript", "bin", "tsc");
      expect(run([bun, compiler, "-p", "."], path)).toBe("");
    },
    2 * minutes,
  );

  test(
    "compiles into one executable that holds the library, and bundles with it beside",
    () => {
      const executable = join(folder, "elsewhere", "program");
      run([bun, "build", "--compile", "program.ts", "--outfile", executable], path);
      expect(run([executable], "/")).toBe(printed);
      const bundle = join(folder, "bundle");
      run([bun, "build", "program.ts", "--target", "bun", "--outdir", bundle], path);
      expect(run([bun, join(bundle, "program.js")], "/")).toBe(printed);
    },
    2 * minutes,
  );

  test(
    "compiled without the library, says where to copy it, and runs with it there",
    async () => {
      const without = await project("without");
      const packages = join(without, "node_modules");
      cpSync(join(path, "node_modules"), packages, { recursive: true });
      const installed = join(packages, "@flashbun", "linux-x64-gnu", "libflashbun.so");
      const library = join(without, "libflashbun.so");
      renameSync(installed, library);
      const executable = join(folder, "alone", "program");
      run([bun, "build", "--compile", "program.ts", "--outfile", executable], without);
      expect(() => run([executable], "/")).toThrow(
        `copy its libflashbun*.so next to the executable, to ${dirname(executable)}`,
      );
      copyFileSync(library, join(dirname(executable), "libflashbun.so"));
      expect(run([executable], "/")).toBe(printed);
      expect(run([executable], "/", { FLASHBUN_LIB: library })).toBe(printed);
    },
    2 * minutes,
  );

  test.each(["flashbun", "flashbun/debloat"])("says to Node that %s needs Bun", async (door) => {
    const name = door === "flashbun" ? "attend" : "inspectLibrary";
    await Bun.write(join(path, "other.mjs"), `import { ${name} } from "${door}";\n`);
    const { exitCode, said } = tried(["node", "other.mjs"], path);
    expect(exitCode).toBe(1);
    expect(said).toContain("Error: flashbun needs Bun 1.4.5 or later: run this program with bun.");
  });
});
