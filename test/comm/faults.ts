/** Ranks of test/comm/comm.test.ts: one of them fails in the way of the first argument. */
import { Communicator } from "../../src/comm/communicator.ts";
import { ranksOf } from "../../src/comm/ranks.ts";
import { Device } from "../../src/device/device.ts";
import { CommError } from "../../src/errors.ts";
import { Tensor } from "../../src/tensor/tensor.ts";

const [fault] = process.argv.slice(2);
const ranks = ranksOf({ ...process.env });
if (ranks === undefined) throw new Error("no launcher");
const { rank } = ranks;
process.stderr.write(`pid ${process.pid}\n`);
const isLast = rank === ranks.ranks - 1;
try {
  await using device = await Device.open("cpu", { threads: 1 });
  using comm = await Communicator.open(device, { ranks });
  const x = Tensor.zeros(device, [1000], "f32");
  for (let step = 0; step < 50; step++) {
    if (isLast && step === 20 && fault === "killed") process.kill(process.pid, "SIGKILL");
    if (isLast && step === 20 && fault === "late") await Bun.sleep(30_000);
    if (isLast && step === 20 && fault === "throws") throw new Error("a fault of this rank");
    comm.allReduce(x);
    await comm.done();
  }
  if (isLast && fault === "stays") Bun.sleepSync(30_000);
} catch (error) {
  const name = error instanceof CommError ? "CommError" : "another error";
  process.stderr.write(`rank ${rank}: ${name}: ${(error as Error).message}\n`);
  process.exit(3);
}
