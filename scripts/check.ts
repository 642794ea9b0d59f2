/**
 * Everything that a change has to pass: format, types, the tests of TypeScript and Zig, and the
 * GPU's tests under other schedules and a race detector.
 *
 * Usage: bun run check [arguments of bun test]
 */
import { testArguments } from "./arguments.ts";
import { prepareTests, setup } from "./setup.ts";
import { bunTest } from "./test.ts";
import { run } from "./toolchain.ts";

/** Runs named steps; the first failure decides the exit code. */
export async function inTurn(steps: [name: string, command: string[]][]): Promise<number> {
  for (const [name, command] of steps) {
    process.stderr.write(`flashbun: ${name}\n`);
    const code = await run(command, true);
    if (code !== 0) {
      process.stderr.write(`flashbun: ${name} failed (exit code ${code})\n`);
      return code;
    }
  }
  return 0;
}

if (import.meta.main) {
  const given = testArguments("check");
  await setup();
  const zig = await prepareTests();
  process.exitCode = await inTurn([
    ["format", [process.execPath, "run", "fmt", "--check"]],
    ["types", [process.execPath, "check", "--no-script"]],
    ["Zig tests", [zig, "build", "test"]],
    ["tests", [...bunTest, ...given]],
    ["the GPU's tests in other orders", [process.execPath, "scripts/test-schedules.ts"]],
    ["races between a GPU's threads", [process.execPath, "scripts/test-races.ts"]],
  ]);
}
