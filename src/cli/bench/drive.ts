import type { Engine } from "../../engine/index.ts";
import type { BenchRequest } from "./load.ts";

/** How requests are put to an engine. */
export interface DriveOptions {
  /** So many at a time, each next one when one is answered; absent: when they come. */
  readonly clients: number | undefined;
  /** Answers of each request, which share its prompt. */
  readonly samples: number;
  readonly temperature: number;
  readonly signal: AbortSignal;
}

/** An answer: when it was asked for and when each token came, in milliseconds from the start. */
export interface Answered {
  readonly asked: number;
  readonly times: readonly number[];
}

/** Puts all requests to the engine and notes the times at the client; a signal ends it early. */
export async function drive(
  engine: Engine,
  requests: readonly BenchRequest[],
  options: DriveOptions,
): Promise<Answered[]> {
  const { clients, samples, signal } = options;
  const started = performance.now();
  const answers: Answered[] = [];
  const ask = async (request: BenchRequest) => {
    const asked = performance.now() - started;
    const all = Array.from({ length: samples }, () => answer(engine, request, options, started));
    for (const times of await Promise.all(all)) answers.push({ asked, times });
  };
  if (clients === undefined) {
    await Promise.all(
      requests.map(async (request) => {
        await Bun.sleep(1e3 * request.arrivalSeconds - (performance.now() - started));
        if (!signal.aborted) await ask(request);
      }),
    );
    return answers;
  }
  let next = 0;
  const client = async () => {
    while (next < requests.length && !signal.aborted) await ask(requests[next++]);
  };
  await Promise.all(Array.from({ length: clients }, client));
  return answers;
}

async function answer(
  engine: Engine,
  { prompt, outputTokens }: BenchRequest,
  { temperature, signal }: DriveOptions,
  started: number,
): Promise<number[]> {
  const times: number[] = [];
  const generation = engine.generate({
    tokens: prompt,
    maxTokens: outputTokens,
    ignoreEnd: true,
    sampling: { temperature },
  });
  const leave = () => generation.abort();
  signal.addEventListener("abort", leave);
  for await (const _ of generation) times.push(performance.now() - started);
  signal.removeEventListener("abort", leave);
  return times;
}
