import { describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";
import { OptionError } from "../../src/errors.ts";
import { openDevice } from "../../src/replay/parts.ts";
import { Replay, replay } from "../../src/replay/replay.ts";
import type { ReplayOptions } from "../../src/replay/types.ts";
import { warmUp } from "../../src/replay/warm-up.ts";
import { optionsOf, places, someRequests } from "./support.ts";

// The first run on a GPU compiles its kernels.
setDefaultTimeout(60_000);

function usesGraphs({ graph, device = "cpu" }: Partial<ReplayOptions>): boolean {
  return graph === "on" || device !== "cpu";
}

describe.each(await places())("a replay on $name", ({ options: place }) => {
  test("runs every request, measures every step, and its outputs hold", async () => {
    const requests = someRequests(12);
    const seen: [number, number][] = [];
    const result = await replay(
      requests,
      optionsOf({ ...place, onStep: (_, done, total) => seen.push([done, total]), trace: "some" }),
    );
    expect(result.verified).toMatchObject({ checked: 40, failed: 0, misses: [] });
    expect(result.interrupted).toBe(false);
    expect(result.trace).toBe("some");
    expect(seen.length).toBe(result.steps.length);
    expect(seen.at(-1)).toEqual([12, 12]);
    expect(result.requests.map(({ id }) => id)).toEqual(requests.map(({ id }) => id));
    for (const [i, request] of result.requests.entries()) {
      expect(request.promptTokens).toBe(requests[i].promptTokens.length);
      expect(request.tokenSeconds.length).toBe(requests[i].outputTokens);
      expect(request.firstTokenSeconds).toBe(request.tokenSeconds[0]);
      expect(request.finishSeconds).toBe(request.tokenSeconds.at(-1)!);
    }
    let tokens = 0;
    for (const step of result.steps) {
      tokens += step.decodeTokens + step.prefillTokens;
      expect(step.endSeconds).toBeGreaterThan(step.startSeconds);
      expect(step.kernelMicroseconds).toBeGreaterThan(0);
      expect(step.hostMicroseconds).toBeGreaterThan(step.planMicroseconds);
      expect(step.kvBytes).toBeGreaterThan(0);
      expect(step.pagesUsed).toBeLessThanOrEqual(64);
      const graphed = usesGraphs(place) && step.prefillTokens === 0;
      if (graphed) expect(step.graphBucket).toBeGreaterThanOrEqual(step.decodeTokens);
      else if (step.prefillTokens > step.runningRequests) expect(step.graphBucket).toBe(0);
    }
    expect(result.steps.some(({ graphBucket }) => graphBucket > 0)).toBe(usesGraphs(place));
    const cached = result.requests.reduce((sum, request) => sum + request.cachedTokens, 0);
    const wanted = requests.reduce(
      (sum, { promptTokens, outputTokens }) => sum + promptTokens.length + outputTokens - 1,
      0,
    );
    expect(cached).toBeGreaterThan(0);
    if (result.preemptions === 0) expect(tokens + cached).toBe(wanted);
    expect(result.prefixHitRate).toBeGreaterThan(0.05);
    expect(result.readCeilingGBs).toBeGreaterThan(0.1);
    expect(result.kvReadGBs).toBeGreaterThan(0);
    expect(result.planSvg).toStartWith("<svg");
  });

  const variants: [string, Partial<ReplayOptions>][] = [
    ["bf16", { dtype: "bf16" }],
    ["f16 in pages of one token", { dtype: "f16", pageSize: 1, pages: 256 }],
    ["a window", { shape: { ...optionsOf().shape, windowLeft: 13 } }],
    ["a cap and odd heads", { shape: { ...optionsOf().shape, queryHeads: 6, softCap: 20 } }],
    ["one request at a time", { maxBatch: 1, tokenBudget: 7 }],
  ];
  test.each(variants)("holds with %s", async (_, more) => {
    const result = await replay(someRequests(8), optionsOf({ ...place, ...more }));
    expect(result.verified).toMatchObject({ checked: 40, failed: 0, misses: [] });
    expect(result.requests.every((request) => request.finishSeconds > 0)).toBe(true);
  });

  test("holds when pages run out: requests are preempted and computed again", async () => {
    const requests = someRequests(6).map((request) => ({
      ...request,
      promptTokens: request.promptTokens.subarray(0, 12),
      outputTokens: 40,
    }));
    const result = await replay(requests, optionsOf({ ...place, pages: 22, verify: 100 }));
    expect(result.preemptions).toBeGreaterThan(0);
    expect(result.requests.every(({ outputTokens }) => outputTokens === 40)).toBe(true);
    expect(result.pageUsePeak).toBe(1);
    expect(result.verified).toMatchObject({ checked: 100, failed: 0, misses: [] });
  });

  test("attends a long shared prefix as a level of its own", async () => {
    const system = Int32Array.from({ length: 640 }, (_, i) => i);
    const requests = someRequests(6).map((request) => ({
      ...request,
      promptTokens: Int32Array.from([...system, ...request.promptTokens]),
      outputTokens: 10,
    }));
    const options = optionsOf({ ...place, pages: 512, tokenBudget: 256 });
    await using session = await Replay.create(requests, options);
    const { cache } = session;
    const share = cache.sharePrefixes.bind(cache);
    let shared = 0;
    cache.sharePrefixes = (...step) => {
      const worth = share(...step);
      if (worth) shared++;
      return worth;
    };
    const result = await session.run();
    expect(shared).toBeGreaterThan(5);
    expect(result.steps.some(({ graphBucket }) => graphBucket > 0)).toBe(usesGraphs(place));
    expect(result.verified).toMatchObject({ checked: 40, failed: 0, misses: [] });
  });

  test("gives every page back", async () => {
    await using session = await Replay.create(someRequests(8), optionsOf(place));
    await session.run();
    session.scheduler[Symbol.dispose]();
    expect(session.cache.pool.sequenceCount).toBe(0);
    expect(session.cache.pool.groups[0].allocator.freeCount).toBe(64);
  });

  test("warms up without a word to the run that follows, on its device", async () => {
    let steps = 0;
    const options = optionsOf({ ...place, onStep: () => steps++ });
    await using device = await openDevice(options);
    await warmUp(options, device);
    expect(steps).toBe(0);
    const result = await replay(someRequests(2), options, device);
    expect(result.steps.length).toBe(steps);
    expect(device.disposed).toBe(false);
  });
});

describe("a replay", () => {
  test("measures the read ceiling before and after, or not at all", async () => {
    const options = optionsOf({});
    await using device = await openDevice(options);
    const launch = spyOn(device, "launch");
    const probes = () => launch.mock.calls.filter(([, { name }]) => name === "probe_read").length;
    const result = await replay(someRequests(1), options, device);
    expect(result.readCeilingGBs).toBeGreaterThan(0);
    expect(probes()).toBe(2 * 3);
    const other = await replay(someRequests(1), { ...options, probe: false }, device);
    expect(other.readCeilingGBs).toBe(0);
    expect(probes()).toBe(2 * 3);
  });

  test("waits for arrivals", async () => {
    const requests = someRequests(2).map((request, id) => ({ ...request, arrivalSeconds: id }));
    const result = await replay(requests, optionsOf({ speed: 10 }));
    expect(result.requests[1].arrivalSeconds).toBe(0.1);
    expect(result.requests[1].firstTokenSeconds).toBeGreaterThanOrEqual(0.1);
  });

  test("ends after the step in which the signal comes, with what there is", async () => {
    const controller = new AbortController();
    let steps = 0;
    const result = await replay(
      someRequests(12),
      optionsOf({
        signal: controller.signal,
        onStep: () => {
          if (++steps === 5) controller.abort();
        },
      }),
    );
    expect(result.interrupted).toBe(true);
    expect(result.steps.length).toBe(5);
    expect(result.requests.length).toBe(12);
    expect(result.requests.at(-1)!.finishSeconds).toBeNaN();
    expect(result.verified.failed).toBe(0);
  });

  test("has a result without requests", async () => {
    const result = await replay([], optionsOf());
    expect(result).toMatchObject({ steps: [], prefixHitRate: 0, interrupted: false });
  });

  test("refuses bad options, naming them", async () => {
    const bad: [Partial<ReplayOptions>, string][] = [
      [{ layers: 3 }, "layers must be an integer from 1 to 2 (got 3)"],
      [{ verify: -1 }, "verify must be"],
      [{ maxBatch: 25 }, "maxBatch must be an integer from 1 to 24"],
      [{ pageSize: 0 }, "pageSize must be"],
      [{ pages: 5 }, "pages must be at least"],
      [{ speed: 0 }, "speed must be above 0"],
      [{ threads: 0 }, "threads must be"],
    ];
    for (const [more, sentence] of bad) {
      const error = await replay(someRequests(2), optionsOf(more)).catch((reason) => reason);
      expect(error).toBeInstanceOf(OptionError);
      expect(error.message).toContain(sentence);
    }
  });
});
