/**
 * What a rank of test/comm/gpu.test.ts runs: turns of a few bytes and of many, sent while the
 * device's own stream has work from before; prints those that came.
 */
import { Communicator } from "../../src/comm/communicator.ts";
import { ranksOf } from "../../src/comm/ranks.ts";
import { Device } from "../../src/device/device.ts";
import { Turns } from "../../src/engine/turns.ts";
import { ProbeParams } from "../../src/ffi/params.gen.ts";

const ranks = ranksOf()!;
await using device = await Device.open("cuda:0");
using steps = await Communicator.open(device, { ranks });
const busy = new ProbeParams();
busy.microseconds = 100_000;
const { open } = Communicator;
Communicator.open = async (...given) => {
  const made = await open.apply(Communicator, given);
  device.launch(device.stream, device.kernel("probe_spin"), busy, 1);
  return made;
};
await using turns = await Turns.open(steps, ranks);
const received: number[][] = [];
for (const count of [2, 500]) {
  turns.send({ now: 1, added: [], left: Array.from({ length: count }, (_, id) => id) });
  await device.stream.done();
  const { left } = await turns.receive();
  received.push([left.length, left.at(-1)!]);
}
process.stdout.write(JSON.stringify(received));
