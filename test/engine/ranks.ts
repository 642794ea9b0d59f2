/** A rank of test/engine/ranks.test.ts: rank 0 asks, and prints what came of it. */
import { Engine, type GenerateOptions, ranksOf } from "../../src/engine/index.ts";
import { CommError } from "../../src/errors.ts";

interface Job {
  readonly path: string;
  readonly tp: number;
  readonly options: object;
  /** Of ranks above 0, where they differ. */
  readonly others?: object;
  readonly requests: readonly GenerateOptions[];
  /** Requests by their index that are ended after so many tokens. */
  readonly aborts: Readonly<Record<number, number>>;
}

const { path, tp, options, others, requests, aborts } = JSON.parse(process.argv[2]) as Job;
try {
  const own = ranksOf()?.rank === 0 ? options : { ...options, ...others };
  await using engine = await Engine.load(path, { ...own, tp });
  if (engine.rank > 0) await engine.follow();
  else {
    const answers = await Promise.all(
      requests.map(async (request, i) => {
        const tokens: number[] = [];
        const generation = engine.generate(request);
        for await (const { token } of generation) {
          tokens.push(token);
          if (tokens.length === aborts[i]) break;
        }
        return { tokens, reason: generation.finishReason };
      }),
    );
    const { pagesUsed, requests: left } = engine.stats();
    process.stdout.write(JSON.stringify({ answers, pagesUsed, left }));
  }
} catch (error) {
  const name = error instanceof CommError ? "CommError" : "another error";
  process.stderr.write(`${name}: ${(error as Error).stack}\n`);
  process.exit(3);
}
