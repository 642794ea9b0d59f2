/**
 * Runs tests in a clone that may be fresh.
 *
 * Usage: bun run test [arguments of bun test]
 */
import { testArguments } from "./arguments.ts";
import { prepareTests, setup } from "./setup.ts";
import { run } from "./toolchain.ts";

/** The command that runs tests; compiling kernels on a busy machine takes its time. */
export const bunTest = [process.execPath, "test", "--timeout", "300000"];

if (import.meta.main) {
  const given = testArguments("test");
  await setup();
  await prepareTests();
  process.exitCode = await run([...bunTest, ...given], true);
}
