/**
 * A rank of test/engine/rank-faults.test.ts: as ranks.ts, with argument 2 as the fault of rank 1,
 * or of rank 0 where it says so.
 */
import { plugin } from "bun";
import { ranksOf } from "../../src/comm/ranks.ts";

/** Does something when the rank comes to its fifth step. */
async function atStep(fault: () => void): Promise<void> {
  const { Model } = await import("../../src/models/model.ts");
  const { forward } = Model.prototype;
  let steps = 0;
  Model.prototype.forward = function (...step) {
    if (++steps === 5) fault();
    forward.apply(this, step);
  };
}

/** Lets requests have a token less here than on rank 0. */
async function shorten(): Promise<void> {
  const { Turns } = await import("../../src/engine/turns.ts");
  const { receive } = Turns.prototype;
  Turns.prototype.receive = async function () {
    const turn = await receive.call(this);
    const added = turn.added.map(({ request, ...rest }) => {
      return { ...rest, request: { ...request, prompt: request.prompt.subarray(1) } };
    });
    return { ...turn, added };
  };
}

/** Does something when the rank comes to a tensor of its models, by its number from 1 on. */
async function atTensors(fault: (tensor: number) => void): Promise<void> {
  const { WeightSource } = await import("../../src/models/weight-source.ts");
  const { linear } = WeightSource.prototype;
  let tensors = 0;
  WeightSource.prototype.linear = function (...asked) {
    fault(++tensors);
    return linear.apply(this, asked);
  };
}

const slowly = () => atTensors(() => Bun.sleepSync(1800));

const faults: Record<string, () => unknown> = {
  killed: () => atStep(() => process.kill(process.pid, "SIGKILL")),
  stops: () => atStep(() => Bun.sleepSync(60_000)),
  late: () => Bun.sleepSync(60_000),
  library: () => (process.env["FLASHBUN_MPI"] = "/nowhere/libmpi.so"),
  version: () =>
    void plugin({
      name: "another version",
      setup(build) {
        const exports = { version: "0.0.1" };
        build.onLoad({ filter: /\/package\.json$/ }, () => ({ exports, loader: "object" }));
      },
    }),
  unequal: shorten,
  "loads slowly": slowly,
  "rank 0 loads slowly": slowly,
  "stops loading": () => atTensors((tensor) => tensor === 3 && Bun.sleepSync(60_000)),
  "killed loading": () =>
    atTensors((tensor) => tensor === 3 && process.kill(process.pid, "SIGKILL")),
};

process.stderr.write(`pid ${process.pid}\n`);
const fault = process.argv[3];
if (ranksOf()!.rank === (fault.startsWith("rank 0") ? 0 : 1)) await faults[fault]();
await import("./ranks.ts");
