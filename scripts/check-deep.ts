/**
 * Runs whole the sweeps over random cases of which `bun run check` runs a slice (test/support/deep
 * .ts), and says on its last line how many passed and failed. SEED=n takes the cases of another
 * seed.
 *
 * Usage: bun run check:deep [arguments of bun test]
 */
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { prepareTests, setup } from "./setup.ts";
import { bunTest } from "./test.ts";
import { root } from "./toolchain.ts";

await setup();
await prepareTests();
const files = globSync("test/**/*.test.ts", { cwd: root })
  .filter((file) => readFileSync(join(root, file), "utf8").includes("support/deep.ts"))
  .sort();
const child = Bun.spawn([...bunTest, ...files, ...process.argv.slice(2)], {
  cwd: root,
  env: { ...process.env, FLASHBUN_DEEP: "1" },
  stdio: ["inherit", "inherit", "pipe"],
});
let said = "";
for await (const chunk of child.stderr) {
  process.stderr.write(chunk);
  said += new TextDecoder().decode(chunk);
}
const countOf = (word: string) =>
  Number(new RegExp(`^ *(\\d+) ${word}$`, "m").exec(said)?.[1] ?? 0);
const code = await child.exited;
const failed = code === 0 ? 0 : Math.max(1, countOf("fail"));
process.stdout.write(`${countOf("pass")} passed, ${failed} failed\n`);
process.exitCode = failed > 0 ? 1 : 0;
