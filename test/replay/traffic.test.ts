import { describe, expect, test } from "bun:test";
import { OptionError } from "../../src/errors.ts";
import { Traffic, type TrafficOptions } from "../../src/replay/traffic.ts";
import type { ReplayRequest } from "../../src/replay/types.ts";
import { Scheduler } from "../../src/serve/scheduler.ts";
import { poolOf } from "../serve/support.ts";
import { someRequests } from "./support.ts";

/** A scheduler and the requests that come to it. */
function trafficOf(requests: ReplayRequest[], more: Partial<TrafficOptions> = {}, pages = 64) {
  const pool = poolOf({ pages, pageSize: 4, maxBatch: 4 });
  const scheduler = new Scheduler(pool, { maxBatch: 4, tokenBudget: 24 });
  return { scheduler, traffic: new Traffic(scheduler, requests, { speed: 1, seed: 7, ...more }) };
}

/** Runs all requests, a step a second; by request, the tokens that came out. */
function play(requests: ReplayRequest[], more?: Partial<TrafficOptions>): number[][] {
  const { scheduler, traffic } = trafficOf(requests, more);
  for (let now = 0; !traffic.done; now++) {
    traffic.arrive(now);
    const step = scheduler.step(now);
    if (step === null) continue;
    for (const { arrivalSeconds } of step.jobs) expect(arrivalSeconds).toBeLessThanOrEqual(now);
    expect(traffic.advance(step)).toBe(step.sampled.length);
    traffic.stamp(now + 1);
  }
  const seconds = traffic.tokenSeconds();
  traffic.visits.forEach(({ job, request }, i) => {
    expect([job!.ending, seconds[i].length]).toEqual(["length", request.outputTokens]);
    for (let t = 1; t < seconds[i].length; t++)
      expect(seconds[i][t]).toBeGreaterThan(seconds[i][t - 1]);
  });
  return requests.map(({ id }) => {
    const { tokens, promptLength, length } = traffic.visits.find(({ job }) => job!.id === id)!.job!;
    return [...tokens.subarray(promptLength, length)];
  });
}

describe("traffic", () => {
  test("arrives when the trace says so, and each token has its time", () => {
    const requests = someRequests(8).map((request, id) => ({ ...request, arrivalSeconds: 9 - id }));
    const tokens = play(requests);
    expect(new Set(tokens.flat()).size).toBeGreaterThan(0.9 * tokens.flat().length);
    // Neither when they arrive nor who runs beside them changes what comes out; the seed does.
    expect(play(requests, { speed: Infinity })).toEqual(tokens);
    expect(play(requests, { seed: 8 })).not.toEqual(tokens);
  });

  test("is as much faster as `speed` says", () => {
    const requests = someRequests(3).map((request, id) => ({ ...request, arrivalSeconds: 3 * id }));
    const seconds = (speed: number) =>
      trafficOf(requests, { speed }).traffic.visits.map(({ arrivalSeconds }) => arrivalSeconds);
    expect(seconds(0.5)).toEqual([0, 6, 12]);
    expect(seconds(3)).toEqual([0, 1, 2]);
    expect(seconds(Infinity)).toEqual([0, 0, 0]);
    const { traffic } = trafficOf(requests);
    traffic.arrive(3);
    expect(traffic.nextArrival).toBe(6);
  });

  test("refuses what can never run, naming the request", () => {
    const request = (length: number, outputTokens: number): ReplayRequest => ({
      id: 5,
      arrivalSeconds: 0,
      promptTokens: new Int32Array(length),
      outputTokens,
    });
    const make = (length: number, outputs: number, speed?: number) => () =>
      trafficOf([request(length, outputs)], { speed }, 4);
    expect(make(16, 1, 1)).not.toThrow();
    expect(make(16, 2, 1)).toThrow(
      "pages must be at least the 5 that request 5 alone needs (got 4)",
    );
    expect(make(0, 1, 1)).toThrow("requests[5].promptTokens.length must be an integer of 1 or");
    expect(make(1, 0, 1)).toThrow("requests[5].outputTokens");
    expect(make(1, 1, NaN)).toThrow(OptionError);
  });
});
