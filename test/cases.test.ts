import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { runFolders } from "../scripts/cases.ts";
import { root } from "./support/sources.ts";

const readme = `# Cases

| File | Runs on | What |
| --- | --- | --- |
| \`right.ts\` | both | device and package |
| \`wrong.ts\` | CPU | fails |
| \`gpu.ts\` | \`cuda:0\` | not on the CPU |
| \`absent.ts\` | files, no-such-program | needs a program |

\`helper.ts\` is no case. Run \`bun first.ts\` in \`engine\`.
`;
const plain = "| Case | What |\n| --- | --- |\n| `says.ts` | skips (`DEVICE=cuda:0` too) |\n";

const files: Record<string, string> = {
  "README.md": readme,
  "right.ts": `import { Device } from "flashbun";
    const place = process.env["FLASHBUN_ROOT"] + " " + typeof Device.open;
    if (place !== "${root} function") throw new Error(place);`,
  "wrong.ts": `console.log("1 is not 2"); console.error("nor 3"); process.exit(3);`,
  "gpu.ts": `const { DEVICE, FLASHBUN_LIBCUDA } = process.env;
    if (DEVICE !== process.argv[2] || !FLASHBUN_LIBCUDA?.includes("emulated")) process.exit(1);`,
  "absent.ts": "process.exit(1);",
  "helper.ts": "process.exit(1);",
  "engine/first.ts": "",
  "plain/README.md": plain,
  "plain/says.ts": `console.log("skipped: no library here");`,
};

test("cases run where their README says", async () => {
  const folder = mkdtempSync(join(tmpdir(), "flashbun-cases-"));
  const empty = mkdtempSync(join(tmpdir(), "flashbun-cases-"));
  const [name, nothing] = [basename(folder), basename(empty)];
  try {
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(join(folder, path, ".."), { recursive: true });
      writeFileSync(join(folder, path), text);
    }
    let printed = "";
    const counts = await runFolders([folder, empty], (text) => void (printed += text));
    const lines = `ok      right.ts
ok      right.ts on the emulated GPU
FAIL    wrong.ts: 1 is not 2
        nor 3
        exit code 3
ok      gpu.ts on the emulated GPU
skipped absent.ts: needs no-such-program on the PATH
ok      engine/first.ts
skipped plain/says.ts: no library here
skipped plain/says.ts on the emulated GPU: no library here
FAIL    ${nothing}: no README in it names a case
`;
    const sorted = (text: string) => text.replaceAll(`${name}/`, "").split("\n").sort();
    expect(sorted(printed)).toEqual(sorted(lines));
    expect(counts).toEqual({ ok: 4, FAIL: 2, skipped: 3 });
  } finally {
    for (const from of [folder, empty, ...[name, nothing].map((n) => join(root, ".cases", n))])
      rmSync(from, { recursive: true, force: true });
  }
});
