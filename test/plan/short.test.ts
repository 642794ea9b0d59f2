import { describe, expect, test } from "bun:test";
import { hopper } from "../../src/attention/families/hopper.ts";
import { offerOf } from "../../src/attention/families/resolve.ts";
import { type AttentionOptions, resolveOptions } from "../../src/attention/options.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { pagesLayout } from "../../src/kv/layout.ts";
import { architectureFacts } from "../../src/jit/architectures.ts";
import { checkPlan } from "../../src/plan/check.ts";
import { Planner } from "../../src/plan/planner.ts";
import { indptrOf } from "../support/numbers.ts";

const shape = { queryHeads: 64, kvHeads: 8, headDim: 64, dtype: "bf16", causal: true } as const;

/** The classes of a step's records on an H200. */
function launchedBy(
  requests: [tokens: number, keys: number][],
  over: Partial<AttentionOptions> = {},
) {
  const resolved = resolveOptions({ ...shape, ...over });
  const { queryHeads, kvHeads, valueDim, causal, windowLeft, graph } = resolved;
  const { classes, costs } = offerOf([hopper], architectureFacts("sm_90a"), resolved);
  const heads = { queryHeads, kvHeads, valueDim, causal, windowLeft, graph };
  const options = { ...heads, processors: 132, classes, costs };
  const [queryLengths, kvLengths] = [0, 1].map((i) => requests.map((each) => each[i]));
  const slots = Int32Array.from(kvLengths, (_, r) => r);
  const indptr = Int32Array.from(indptrOf(queryLengths));
  const layout = pagesLayout(16, indptr, slots, Int32Array.from(kvLengths));
  const batch = createBatch({ queryLengths, kvLengths, layout });
  const plan = new Planner(options).plan(batch);
  checkPlan(plan, batch, options);
  const launched = plan.launches.filter(({ recordCount }) => recordCount > 0);
  return launched.map(({ kernelClass }) => kernelClass).join(", ");
}

describe("a step of short prompts with heads of 64", () => {
  test("goes to two blocks on a processor, one with longer prompts does not", () => {
    expect(
      launchedBy([
        [512, 512],
        [1024, 1024],
        [30, 500],
      ]),
    ).toBe("hopper.tile128");
    expect(
      launchedBy([
        [512, 512],
        [100, 1025],
      ]),
    ).toBe("hopper.tile192");
    // Of full attention rows see all keys.
    expect(launchedBy([[200, 512]], { causal: false })).toBe("hopper.tile128");
    expect(launchedBy([[200, 600]], { causal: false })).toBe("hopper.tile192");
  });

  test("may have decodes of many keys, whose rows are few", () => {
    expect(
      launchedBy([
        [512, 512],
        [8, 9000],
      ]),
    ).toBe("hopper.tile64, hopper.tile128");
    expect(
      launchedBy([
        [512, 512],
        [1, 9000],
      ]),
    ).toBe("cuda.decode8, hopper.tile128");
  });

  test("is one of long prompts whose window is short, if no key behind a query is seen", () => {
    expect(launchedBy([[300, 2500]], { windowLeft: 127 })).toBe("hopper.tile128");
    expect(launchedBy([[300, 2500]], { windowLeft: 2000 })).toBe("hopper.tile192");
    expect(launchedBy([[300, 2500]], { windowLeft: 127, causal: false })).toBe("hopper.tile192");
  });

  test("stays within the bounds of a graph", () => {
    const graph = { maxBatch: 4, maxQueryTokens: 1024, maxColumns: 1024 };
    expect(
      launchedBy(
        [
          [512, 512],
          [500, 700],
        ],
        { graph },
      ),
    ).toBe("hopper.tile128");
    expect(
      launchedBy(
        [
          [512, 2000],
          [500, 700],
        ],
        { graph },
      ),
    ).toBe("hopper.tile192");
  });

  test("of other heads is one of many rows", () => {
    expect(launchedBy([[512, 512]], { headDim: 96 })).toBe("hopper.tile256");
    expect(launchedBy([[512, 512]], { alibi: true })).toBe("hopper.tile256");
  });
});

describe("a step of short prompts with heads of 128", () => {
  const over = { headDim: 128 };

  test("goes to blocks on their own, one with longer prompts does not", () => {
    expect(
      launchedBy(
        [
          [512, 512],
          [0, 9000],
          [2048, 2048],
        ],
        over,
      ),
    ).toBe("hopper.short128");
    expect(
      launchedBy(
        [
          [512, 512],
          [2050, 2050],
        ],
        over,
      ),
    ).toBe("hopper.tile256");
  });

  test("has no request of few rows", () => {
    expect(
      launchedBy(
        [
          [512, 512],
          [16, 200],
        ],
        over,
      ),
    ).toBe("hopper.tile128, hopper.tile256");
    expect(
      launchedBy(
        [
          [512, 512],
          [1, 200],
        ],
        over,
      ),
    ).toBe("cuda.decode8, hopper.tile256");
  });

  test("is no step of windows, full attention, or more than ranges", () => {
    expect(launchedBy([[300, 2500]], { ...over, windowLeft: 127 })).toBe("hopper.tile256");
    const graph = { maxBatch: 4, maxQueryTokens: 1024, maxColumns: 1024 };
    expect(launchedBy([[512, 512]], { ...over, graph })).toBe("hopper.short128");
    expect(launchedBy([[512, 512]], { ...over, causal: false })).toBe("hopper.tile256");
    expect(launchedBy([[512, 512]], { ...over, alibi: true })).toBe("hopper.tile256");
  });
});
