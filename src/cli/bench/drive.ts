import { setTimeout } from "node:timers/promises";
import type { BenchRequest } from "./load.ts";
import type { Asked, Target } from "./target.ts";

/** How requests are put to a target. */
export interface DriveOptions {
  /** So many at a time, each next one when one is answered; absent: when they come. */
  readonly clients: number | undefined;
  /** Answers of each request, which share its prompt. */
  readonly samples: number;
  readonly temperature: number;
  readonly signal: AbortSignal;
}

/** Puts all requests to the target and notes the times at the client; a signal ends it early. */
export async function drive(
  target: Target,
  requests: readonly BenchRequest[],
  options: DriveOptions,
): Promise<Asked[]> {
  const { clients, signal } = options;
  const started = performance.now();
  const asking = { ...options, now: () => performance.now() - started };
  const asked: Asked[] = [];
  const ask = async (request: BenchRequest) => void asked.push(await target.ask(request, asking));
  if (clients === undefined) {
    await Promise.all(
      requests.map(async (request) => {
        await until(1e3 * request.arrivalSeconds - asking.now(), signal);
        if (!signal.aborted) await ask(request);
      }),
    );
    return asked;
  }
  let next = 0;
  const client = async () => {
    while (next < requests.length && !signal.aborted) await ask(requests[next++]);
  };
  await Promise.all(Array.from({ length: clients }, client));
  return asked;
}

/** Waits so many milliseconds, or for the signal. */
async function until(milliseconds: number, signal: AbortSignal): Promise<void> {
  await setTimeout(Math.max(0, milliseconds), undefined, { signal }).catch(() => {});
}
