import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runBun } from "../support/run.ts";
import { root } from "../support/sources.ts";

let folder: string;
let locate: string;

/** Sources without a local build beside them, as an installed package has them. */
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "flashbun-locate-"));
  locate = join(folder, "src", "ffi", "locate.ts");
  for (const path of ["src/describe.ts", "src/errors.ts", "src/ffi/locate.ts"])
    cpSync(join(root, path), join(folder, path));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What `locate` finds or says in a process of its own, after some lines of program. */
async function located(program = "", fileName = "libflashbun.so", given?: string) {
  const script = `${program}
    const { locate } = await import("${locate}");
    try { process.stdout.write(locate("${fileName}")); }
    catch (error) { process.stdout.write(error.name + ": " + error.message); }`;
  const env = { FLASHBUN_LIB: given };
  return (await runBun(["-e", script], { cwd: folder, env })).stdout;
}

/** A program's lines that make this process one of another platform. */
function on(platform: string, arch: string): string {
  return `Object.defineProperty(process, "platform", { value: "${platform}" });
    Object.defineProperty(process, "arch", { value: "${arch}" });`;
}

const musl = `process.report.getReport = () => ({ header: {} });`;
const sentence =
  "LibraryError: no libflashbun.so was found. " +
  "flashbun runs on Linux x64 with glibc 2.28 or later, " +
  "not on musl, macOS, Windows or other processors; this is ";

describe("another platform gets one sentence", () => {
  const cases: [string, string][] = [
    ["darwin arm64", on("darwin", "arm64")],
    ["win32 x64", on("win32", "x64")],
    ["linux arm64", on("linux", "arm64")],
    ["linux x64 with musl", musl],
  ];
  test.each(cases)("%s", async (here, program) => {
    expect(await located(program)).toBe(
      `${sentence}${here}. Fix: use a machine that is supported.`,
    );
  });
});

describe("on Linux x64", () => {
  const packaged = () => join(folder, "node_modules", "@flashbun", "linux-x64-gnu");
  const built = () => join(folder, "zig-out", "lib");

  function put(path: string): string {
    mkdirSync(join(path, ".."), { recursive: true });
    writeFileSync(path, "");
    return path;
  }

  test("an installation without its platform package says what to install", async () => {
    const said = await located();
    expect(said).toContain("package @flashbun/linux-x64-gnu. Fix: reinstall flashbun with its");
    expect(said).toContain(join(built(), "libflashbun.so"));
  });

  test.each(["libflashbun.so", "libflashbun-pager.so"])(
    "%s: FLASHBUN_LIB, then the local build, then the platform package",
    async (fileName) => {
      writeFileSync(put(join(packaged(), "package.json")), "{}");
      const inPackage = put(join(packaged(), fileName));
      expect(await located("", fileName)).toBe(inPackage);
      const local = put(join(built(), fileName));
      expect(await located("", fileName)).toBe(local);
      const chosen = put(join(folder, "chosen", fileName));
      const given = join(folder, "chosen", "libflashbun.so");
      put(given);
      expect(await located("", fileName, given)).toBe(chosen);
    },
  );

  test("FLASHBUN_LIB at nothing is not passed over", async () => {
    expect(await located("", "libflashbun.so", "/absent/libflashbun.so")).toBe(
      "LibraryError: no libflashbun.so was found at FLASHBUN_LIB=/absent/libflashbun.so. " +
        "Fix: correct the path, or unset FLASHBUN_LIB.",
    );
  });
});
