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

describe("a step of few short requests", () => {
  const heads = { queryHeads: 32, headDim: 128 } as const;

  /** The classes of decodes of so many keys each. */
  function decodes(keys: number[], over: Partial<AttentionOptions> = {}, tokens = 1): string {
    const requests = keys.map((count): [number, number] => [tokens, count]);
    return launchedBy(requests, { ...heads, ...over });
  }

  test("is one launch of whole requests", () => {
    for (const keys of [129, 1024, 3072]) expect(decodes([keys])).toBe("cuda.short8");
    for (const keys of [1, 128, 3073]) expect(decodes([keys])).toBe("cuda.decode8");
    // A draft's tokens are rows, too.
    expect(decodes([900], {}, 2)).toBe("cuda.short8");
    expect(decodes([900], {}, 3)).toBe("cuda.decode16");
    expect(decodes([5, 3072], { kvHeads: 4 })).toBe("cuda.short8");
    expect(decodes([5, 3073], { kvHeads: 4 })).toBe("cuda.decode8");
    // One cluster reads with few processors.
    const one = { queryHeads: 8, kvHeads: 1 };
    expect(decodes([1024], one)).toBe("cuda.short8");
    expect(decodes([1025], one)).toBe("cuda.decode8");
    expect(decodes([1025, 3], one)).toBe("cuda.short8");
  });

  test("fills half of the processors at most", () => {
    expect(decodes([900, 900])).toBe("cuda.decode8");
    expect(decodes([900, 900], { kvHeads: 4 })).toBe("cuda.short8");
    expect(decodes([900, 900, 900], { kvHeads: 4 })).toBe("cuda.decode8");
    expect(decodes([900], { kvHeads: 16 })).toBe("cuda.decode8");
    expect(decodes(Array(8).fill(900), { queryHeads: 8, kvHeads: 1 })).toBe("cuda.short8");
  });

  test("may have more keys, of which windows leave few", () => {
    expect(decodes([90_000], { windowLeft: 3000 })).toBe("cuda.short8");
    expect(decodes([90_000], { windowLeft: 4000 })).toBe("cuda.decode8");
    expect(decodes([90_000], { windowLeft: 3000, causal: false })).toBe("cuda.decode8");
  });

  test("leaves requests without keys to the first class", () => {
    expect(decodes([0, 700], { kvHeads: 4 })).toBe("cuda.decode8, cuda.short8");
    expect(decodes([0])).toBe("cuda.decode8");
  });

  test("takes another way where grids, lengths or bits are fixed, or scores meet a hook", () => {
    const graph = { maxBatch: 1, maxQueryTokens: 1, maxColumns: 64 };
    const others = [
      { graph },
      { deviceLengths: true },
      { softCap: 30 },
      { alibi: true },
      { mask: "all" },
      { rope: {} },
      { headDim: 96 },
    ] as const;
    for (const over of others) expect(decodes([900], over)).toBe("cuda.decode8");
    expect(decodes([900], { batchInvariant: true })).not.toContain("short");
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
          [4096, 4096],
        ],
        over,
      ),
    ).toBe("hopper.short128");
    expect(
      launchedBy(
        [
          [512, 512],
          [4098, 4098],
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
