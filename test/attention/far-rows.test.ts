import { expect, test } from "bun:test";
import { join } from "node:path";
import { runBun } from "../support/run.ts";
import { gpuTarget } from "../support/targets.ts";

const target = gpuTarget();
const emulated = target?.name.includes("emulated") === true;

test.if(target !== undefined)(
  "keys and values 64 GiB from the first page are read from there",
  async () => {
    // The emulated GPU takes the host's memory only where something is written.
    const schedule = process.env["FLASHBUN_EMULATOR"];
    const env = { FLASHBUN_EMULATOR: `${schedule ? `${schedule},` : ""}memory=200G` };
    const run = await runBun([join(import.meta.dir, "run-far-rows.ts")], { env });
    expect(run).toMatchObject({ code: 0, stderr: "" });
    const found = emulated ? "same bits" : "(same bits|no room)";
    expect(run.stdout).toMatch(new RegExp(`^(pages of \\d+, .*: ${found}\n){2}$`));
  },
  300_000,
);
