/** A rank of test/engine/rank*.test.ts: rank 0 asks engine by engine, and prints what came. */
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
  /** Whether all ranks refuse it. */
  readonly refused: boolean;
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

/** What rank 0 was answered; undefined on the others. */
async function run({ path, tp, options, others, requests, aborts, inTurn }: Job) {
  const own = ranksOf()?.rank === 0 ? options : { ...options, ...others };
  await using engine = await Engine.load(path, { ...own, tp });
  countsOf();
  if (engine.rank > 0) return await engine.follow();
  const all = requests.map((request, i) => () => answerOf(engine, request, aborts[i]));
  const runs = [];
  for (const some of inTurn ? all.map((each) => [each]) : [all])
    runs.push({ answers: await Promise.all(some.map((each) => each())), traffic: countsOf() });
  const { pagesUsed, requests: left, steps, acceptedTokens: accepted } = engine.stats();
  return {
    answers: runs.flatMap((each) => each.answers),
    traffic: runs.map((each) => each.traffic),
    pagesUsed,
    left,
    steps,
    accepted,
  };
}

try {
  const results: unknown[] = [];
  for (const job of JSON.parse(process.argv[2]) as Job[]) {
    if (job.refused) results.push(await run(job).then(() => "nothing was refused", String));
    else results.push(await run(job));
  }
  if (ranksOf()?.rank === 0) process.stdout.write(JSON.stringify(results));
  // As `serve` does it.
  if (JSON.stringify(results).includes('"reason":"CommError')) process.exit(3);
} catch (error) {
  const name = error instanceof CommError ? "CommError" : "another error";
  process.stderr.write(`${name}: ${(error as Error).stack}\n`);
  process.exit(3);
}
