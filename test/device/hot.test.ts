import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runBun } from "../support/run.ts";
import { root } from "../support/sources.ts";

const reloads = 4;

/** Opens a device at each reload, as a server under --hot does, and never disposes of one. */
const program = `
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { attend, Device, Tensor } from "${join(root, "src/index.ts")}";
const device = await Device.open("cpu", { threads: 4 });
const x = Tensor.randomNormal(device, [4, 2, 16], "f32", { seed: 1 });
attend(x, x, x).out.toFloat64Array();
await device.stream.done();
// The device's own: their priority is 10. Bun starts others when it likes.
const isOwn = (task) => {
  try {
    const stat = readFileSync("/proc/self/task/" + task + "/stat", "utf8");
    return stat.split(") ")[1].split(" ")[16] === "10";
  } catch {
    return false; // It has ended meanwhile.
  }
};
const threads = () => readdirSync("/proc/self/task").filter(isOwn).length;
globalThis.counts ??= [];
// Whoever is forgotten is found by a collection, sooner or later.
for (let wait = 0; wait < 100 && globalThis.counts.length > 0; wait++) {
  if (threads() <= globalThis.counts[0] + 4) break;
  Bun.gc(true);
  await Bun.sleep(20);
}
globalThis.counts.push(threads());
if (globalThis.counts.length <= ${reloads})
  writeFileSync(import.meta.path, readFileSync(import.meta.path, "utf8") + "//\\n");
else {
  process.stdout.write(JSON.stringify(globalThis.counts));
  process.exit(0);
}
`;

test("devices that a hot reload leaves behind give back their threads", async () => {
  const folder = mkdtempSync(join(tmpdir(), "flashbun-hot-"));
  try {
    const path = join(folder, "server.ts");
    writeFileSync(path, program);
    const { stdout, stderr } = await runBun(["--hot", path], { cwd: folder });
    expect(stderr).toBe("");
    const counts = JSON.parse(stdout) as number[];
    expect(counts).toHaveLength(reloads + 1);
    expect(counts[0]).toBe(4);
    // One device more may still be waited for, not one for each reload.
    expect(counts.at(-1)! - counts[0]).toBeLessThanOrEqual(4);
  } finally {
    rmSync(folder, { recursive: true });
  }
}, 300_000);
