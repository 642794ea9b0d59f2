import { describe, expect, test } from "bun:test";
import { cpu, cpuClasses } from "../../src/attention/families/cpu.ts";
import type { KernelClass, KernelFamily } from "../../src/attention/families/family.ts";
import { offerOf } from "../../src/attention/families/resolve.ts";
import { families } from "../../src/attention/families/table.ts";
import { tiled } from "../../src/attention/families/tiled.ts";
import { resolveOptions } from "../../src/attention/options.ts";
import { OptionError } from "../../src/errors.ts";
import { architectureFacts } from "../../src/jit/architectures.ts";

const options = resolveOptions({ queryHeads: 32, kvHeads: 8, headDim: 128, dtype: "bf16" });
const facts = architectureFacts("sm_90a");

/** A family for GPUs of 9.0 that keeps the tiled class for few rows. */
const mixed: KernelFamily = {
  name: "mixed",
  offer(seen, wanted) {
    const base = tiled.offer(seen, wanted);
    if (base instanceof OptionError) return base;
    if (seen.computeMajor !== 9) {
      return new OptionError("device", `${seen.computeMajor}.x`, "9.0", "use another family.");
    }
    const own = { ...base.classes.at(-1)!, name: "mixed.tile" };
    return { ...base, classes: [base.classes[0], own] };
  },
};

const decodeNames = ["cuda.decode8", "cuda.decode16", "cuda.decode32"];
const tiledNames = [...decodeNames, "cuda.tile64", "cuda.tile128"];

function namesOf(list: readonly KernelFamily[], architecture: string): string[] {
  const offer = offerOf(list, architectureFacts(architecture), options);
  return offer.classes.map(({ name }) => name);
}

describe("families", () => {
  test("the first that makes an offer is taken, by the compute capability", () => {
    const list = [mixed, tiled];
    expect(namesOf(list, "sm_90a")).toEqual(["cuda.decode8", "mixed.tile"]);
    expect(namesOf(list, "sm_80")).toEqual(tiledNames);
    expect(namesOf(list, "sm_120a")[0]).toBe("cuda.decode8");
  });

  test("before 8.0 attention takes f16 alone, in tiles that fit", () => {
    const turing = architectureFacts("sm_75");
    expect(() => offerOf(families.cuda, turing, options)).toThrow(
      /^dtype must be f16 on a GPU of compute capability 7\.5 \(got "bf16"\)/,
    );
    for (const headDim of [64, 128, 256]) {
      const wanted = resolveOptions({ ...options, headDim, dtype: "f16", kvDtype: undefined });
      const { classes } = offerOf(families.cuda, turing, wanted);
      expect(classes.map(({ queryTile }) => queryTile)).toContain(16);
      for (const { launch } of classes) expect(launch!.sharedBytes).toBeLessThanOrEqual(65_536);
    }
  });

  test("a graph of short queries has only the classes that it launches", () => {
    const graph = { maxBatch: 4, maxQueryTokens: 64, maxColumns: 9 };
    const namesFor = (maxQueryLength?: number) => {
      const captured = { ...options, graph: { ...graph, maxQueryLength } };
      return offerOf([tiled], facts, captured).classes.map(({ name }) => name);
    };
    expect(namesFor()).toEqual(tiledNames);
    // Four query heads of a KV head are rows of a tile.
    expect(namesFor(1)).toEqual(tiledNames.slice(0, 1));
    expect(namesFor(3)).toEqual(tiledNames.slice(0, 2));
    expect(namesFor(5)).toEqual(tiledNames.slice(0, 3));
    expect(namesFor(9)).toEqual(tiledNames.slice(0, 4));
  });

  test("where none does, the last says why", () => {
    const refuses = (option: string): KernelFamily => ({
      name: option,
      offer: () => new OptionError(option, 1, "2", "pass 2."),
    });
    const none = [refuses("one"), refuses("two")];
    expect(() => offerOf(none, facts, options)).toThrow(/^two must be 2/);
    const wide = resolveOptions({ ...options, dtype: "f32", kvDtype: "f32" });
    expect(() => offerOf(families.cuda, facts, wide)).toThrow(/^dtype must be f16, bf16/);
  });

  test.each(["sm_80", "sm_86", "sm_90a", "sm_100a", "sm_120a"])(
    "every class of %s is a row of its own, by rising query tile",
    (architecture) => {
      for (const headDim of [8, 64, 128, 192, 256, 512, 576]) {
        const wide = resolveOptions({ ...options, headDim });
        const { classes } = offerOf(families.cuda, architectureFacts(architecture), wide);
        // One that takes whole steps stands behind a class of its tile.
        const takesSteps = ({ together, shortRequests, promptsOnly = false }: KernelClass) =>
          together !== undefined || shortRequests !== undefined || promptsOnly;
        const byRows = classes.filter((row) => !takesSteps(row));
        classes.forEach((row, c) => {
          if (takesSteps(row)) expect(classes[c - 1].queryTile).toBe(row.queryTile);
        });
        const tiles = byRows.map(({ queryTile }) => queryTile);
        expect(tiles).toEqual([...new Set(tiles)].sort((a, b) => a - b));
        for (const { image, launch, few, queryTile, kvTile, blocksPerProcessor } of classes) {
          expect(image!.constants).toMatchObject({
            FB_QUERY_TILE: queryTile,
            FB_KV_TILE: kvTile,
            FB_SHARED_BYTES: launch!.sharedBytes!,
            FB_THREADS: launch!.threads,
            FB_MIN_BLOCKS: few === undefined ? blocksPerProcessor : 1,
          });
        }
      }
    },
  );

  test("the CPU takes every dtype with the same classes", () => {
    for (const dtype of ["f32", "f16", "bf16"] as const) {
      const { classes } = offerOf([cpu], facts, resolveOptions({ ...options, dtype }));
      expect(classes).toBe(cpuClasses);
    }
  });
});
