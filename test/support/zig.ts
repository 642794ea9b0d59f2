import { join } from "node:path";

/** Root of the repository. */
export const root = join(import.meta.dir, "..", "..");

/** Runs a Zig build step in the repository; returns its exit code and both outputs. */
export async function zigBuild(...steps: string[]) {
  const zig = process.env["FLASHBUN_ZIG"] ?? join(root, ".toolchain", "zig", "ziglang", "zig");
  const child = Bun.spawn([zig, "build", ...steps], { cwd: root, stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code: await child.exited, stdout, stderr };
}
