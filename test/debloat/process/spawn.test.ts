import { expect, test } from "bun:test";

const module = JSON.stringify(
  Bun.resolveSync("../../../src/debloat/process/spawn.ts", import.meta.dir),
);
/** Says so when it is asked to end, and why. */
const command = `trap 'echo INT; exit 7' INT; trap 'echo TERM; exit 8' TERM; echo ready
  while :; do sleep 0.05; done`;
const script = `
  const { runCommand } = await import(${module});
  const { exitCode } = await runCommand(["sh", "-c", ${JSON.stringify(command)}], {});
  process.exit(exitCode);`;

test.each([
  ["SIGINT", "INT", 7],
  ["SIGTERM", "TERM", 8],
] as const)("%s that this process alone gets goes to the command", async (signal, said, code) => {
  // In a session without a terminal, which would send it to both.
  const child = Bun.spawn([process.execPath, "-e", script], { detached: true, stdout: "pipe" });
  let out = "";
  for await (const piece of child.stdout.pipeThrough(new TextDecoderStream())) {
    out += piece;
    if (out === "ready\n") child.kill(signal);
  }
  expect([out, await child.exited]).toEqual([`ready\n${said}\n`, code]);
});
