/**
 * Runs whole the sweeps over random cases of which `bun run check` runs a slice (test/support/deep
 * .ts) and the GPU's tests in more orders, and says on its last line how many passed and failed.
 * SEED=n takes the cases of another seed.
 *
 * Usage: bun run check:deep [arguments of bun test]
 */
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { testArguments } from "./arguments.ts";
import { prepareTests, setup } from "./setup.ts";
import { bunTest } from "./test.ts";
import { root } from "./toolchain.ts";

const given = testArguments("check:deep");
await setup();
await prepareTests();
const files = globSync("test/**/*.test.ts", { cwd: root })
  .filter((file) => readFileSync(join(root, file), "utf8").includes("support/deep.ts"))
  .sort();
const commands = [
  [...bunTest, ...files, ...given],
  [process.execPath, "scripts/test-schedules.ts", ...given],
];
let said = "";
let failedCommands = 0;
for (const command of commands) {
  const child = Bun.spawn(command, {
    cwd: root,
    env: { ...process.env, FLASHBUN_DEEP: "1" },
    stdio: ["inherit", "inherit", "pipe"],
  });
  for await (const chunk of child.stderr) {
    process.stderr.write(chunk);
    said += new TextDecoder().decode(chunk);
  }
  if ((await child.exited) !== 0) failedCommands++;
}
/** Every run of tests says how many passed and failed. */
const sumOf = (word: string) =>
  [...said.matchAll(new RegExp(`^ *(\\d+) ${word}$`, "gm"))].reduce(
    (sum, [, n]) => sum + Number(n),
    0,
  );
const failed = Math.max(failedCommands, sumOf("fail"));
process.stdout.write(`${sumOf("pass")} passed, ${failed} failed\n`);
process.exitCode = failed > 0 ? 1 : 0;
