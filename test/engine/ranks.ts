/** A rank of test/engine/ranks.test.ts: rank 0 asks, and prints what came of it. */
import { Communicator } from "../../src/comm/communicator.ts";
import { Engine, type GenerateOptions, ranksOf } from "../../src/engine/index.ts";
import { CommError } from "../../src/errors.ts";
import { dtypeBytes } from "../../src/tensor/dtype.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";

interface Job {
  readonly path: string;
  readonly tp: number;
  readonly options: object;
  /** Of ranks above 0, where they differ. */
  readonly others?: object;
  readonly requests: readonly GenerateOptions[];
  /** Requests by their index that are ended after so many tokens. */
  readonly aborts: Readonly<Record<number, number>>;
  /** Whether each is asked when the one before has ended; else all at once. */
  readonly inTurn: boolean;
}

/** How often something was gathered or told, by what it was and its bytes. */
const traffic: Record<string, number> = {};
const { prototype } = Communicator;
for (const operation of ["allGather", "broadcast"] as const) {
  const original = prototype[operation] as (x: Tensor, ...rest: unknown[]) => void;
  prototype[operation] = function (this: Communicator, x: Tensor, ...rest: unknown[]) {
    const name = `${operation} ${x.dtype} ${x.elements * dtypeBytes(x.dtype)}`;
    traffic[name] = (traffic[name] ?? 0) + 1;
    original.call(this, x, ...rest);
  };
}

/** What was counted since the last time. */
function countsOf(): Record<string, number> {
  const counts = { ...traffic };
  for (const name of Object.keys(traffic)) delete traffic[name];
  return counts;
}

async function answerOf(engine: Engine, request: GenerateOptions, most: number | undefined) {
  const tokens: number[] = [];
  const logProbs: unknown[] = [];
  const generation = engine.generate(request);
  try {
    for await (const { token, logProb } of generation) {
      tokens.push(token);
      if (logProb !== undefined) logProbs.push(logProb);
      if (tokens.length === most) break;
    }
  } catch (error) {
    return { tokens, logProbs, reason: String(error) };
  }
  return { tokens, logProbs, reason: generation.finishReason };
}

const { path, tp, options, others, requests, aborts, inTurn } = JSON.parse(process.argv[2]) as Job;
try {
  const own = ranksOf()?.rank === 0 ? options : { ...options, ...others };
  await using engine = await Engine.load(path, { ...own, tp });
  countsOf();
  if (engine.rank > 0) await engine.follow();
  else {
    const all = requests.map((request, i) => () => answerOf(engine, request, aborts[i]));
    const runs = [];
    for (const some of inTurn ? all.map((each) => [each]) : [all])
      runs.push({ answers: await Promise.all(some.map((each) => each())), traffic: countsOf() });
    const answers = runs.flatMap((run) => run.answers);
    const counts = runs.map((run) => run.traffic);
    const { pagesUsed, requests: left, steps } = engine.stats();
    process.stdout.write(JSON.stringify({ answers, pagesUsed, left, steps, traffic: counts }));
    // As `serve` does it.
    if (answers.some(({ reason }) => reason?.includes("CommError"))) process.exit(3);
  }
} catch (error) {
  const name = error instanceof CommError ? "CommError" : "another error";
  process.stderr.write(`${name}: ${(error as Error).stack}\n`);
  process.exit(3);
}
