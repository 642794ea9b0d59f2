import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runBun } from "../support/run.ts";
import { root } from "../support/sources.ts";
import { entry } from "./run.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-outputs-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const tiny = ["replay", "--shape", "tiny", "--requests", "3", "--device", "cpu"];
const library = join(root, "zig-out", "lib", "libflashbun.so");

function run(args: string[], env: Record<string, string> = {}) {
  return runBun([entry, ...args], { cwd: folder, env });
}

test("a full disk is a sentence with a fix", async () => {
  const { code, stderr } = await run([...tiny, "-q", "--json", "/dev/full"]);
  expect(stderr).toBe(
    "flashbun: /dev/full: the disk is full. Fix: free some space, or write to another disk.\n",
  );
  expect(code).toBe(1);
});

describe("- is the standard output", () => {
  test.each([
    ["replay", [...tiny, "--json", "-"], "requests"],
    ["doctor", ["doctor", "--json", "-"], "findings"],
    ["inspect", ["debloat", "inspect", library, "--json", "-"], "0"],
  ])("%s writes JSON alone there, and what people read elsewhere", async (_, args, key) => {
    const { code, stdout, stderr } = await run(args);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toHaveProperty(key);
    expect(stderr.length).toBeGreaterThan(200);
    expect(existsSync(join(folder, "-"))).toBe(false);
  });
});

describe("one path for two things is refused before the run", () => {
  const trace = join(folder, "trace.csv");
  writeFileSync(trace, "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.5,9,4\n");
  test.each([
    [["--json", "a", "--report", "./a"], "--report", "--json"],
    [["--json", "-", "--trace-events", "-"], "--trace-events", "--json"],
    [["--trace", trace, "--json", "trace.csv"], "--json", "--trace"],
  ])("%p", async (more, option, other) => {
    const { code, stdout, stderr } = await run([...tiny, ...more]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain(`flashbun: ${option} must be another path than that of ${other}`);
    expect(existsSync(join(folder, "a"))).toBe(false);
    expect(readFileSync(trace, "utf8")).toStartWith("TIMESTAMP");
  });

  test("a library too", async () => {
    const copy = join(folder, "lib.so");
    writeFileSync(copy, readFileSync(library));
    const { code } = await run(["debloat", "inspect", copy, "--json", copy]);
    expect(code).toBe(2);
    expect(readFileSync(copy).equals(readFileSync(library))).toBe(true);
  });
});

test("who ends a run early is told so, and not of an option", async () => {
  const args = ["replay", "--shape", "tiny", "--requests", "2000", "--device", "cpu"];
  const child = Bun.spawn([process.execPath, entry, ...args], {
    cwd: folder,
    stdout: "pipe",
    stderr: "pipe",
  });
  const decoder = new TextDecoder();
  // It says what it runs shortly before it takes signals itself.
  for await (const chunk of child.stderr) {
    if (!decoder.decode(chunk).includes(", on ")) continue;
    await Bun.sleep(50);
    child.kill("SIGINT");
  }
  const stdout = await new Response(child.stdout).text();
  if (stdout !== "") expect(stdout).toMatch(/verified +(nothing, it ended too early|\d+ outputs)/);
  expect([130, null]).toContain(await child.exited.then(() => child.exitCode));
});

test("help prints the help, of a command too", async () => {
  for (const [args, said] of [
    [["help"], "Usage: flashbun [options] [command]"],
    [["help", "replay"], "Usage: flashbun replay [options]"],
    [["jit", "help"], "Usage: flashbun jit"],
    [["debloat", "help", "shrink"], "Usage: flashbun debloat shrink"],
  ] as const) {
    const { code, stdout } = await run([...args]);
    expect({ code, said: stdout.slice(0, said.length) }).toEqual({ code: 0, said });
  }
});

test("jit warm needs a place to keep kernels", async () => {
  const file = join(folder, "options.ts");
  writeFileSync(file, 'export default { queryHeads: 4, kvHeads: 2, headDim: 64, dtype: "f16" };');
  const env = { FLASHBUN_CACHE: "/proc/nothing" };
  const { code, stdout, stderr } = await run(["jit", "warm", file, "--arch", "sm_90a"], env);
  expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  expect(stderr).toMatch(
    /^flashbun: \/proc\/nothing: kernels cannot be kept there \(\w+\)\. Fix: /,
  );
});
