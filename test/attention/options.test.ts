import { describe, expect, test } from "bun:test";
import { type AttentionOptions, resolveOptions, schemas } from "../../src/attention/options.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { gridCases } from "../support/cases.ts";
import { optionsOf } from "../support/rig.ts";
import { caseOn } from "../support/targets.ts";

type Option = keyof AttentionOptions;

const names = Object.keys(schemas) as Option[];
const required: Option[] = ["queryHeads", "kvHeads", "headDim", "dtype"];
/** Given in tests of their own, as no grid can vary them. */
const elsewhere: Option[] = [
  "deviceLengths",
  "keyPlane",
  "valuePlane",
  "tailPlane",
  "graph",
  "variant",
];
/** Read by nobody. */
const unused: Option[] = ["layers"];

/** What becomes of an option. */
function valueOf(options: AttentionOptions, name: Option): unknown {
  return (resolveOptions(options) as AttentionOptions)[name];
}

/** Whether an option is what it would be if it were left out. */
function isDefault(options: AttentionOptions, name: Option): boolean {
  const { [name]: _, ...rest } = options;
  return Bun.deepEquals(valueOf(options, name), valueOf(rest as AttentionOptions, name));
}

describe.each(["cpu", "cuda"] as const)("the grids on %s", (kind) => {
  const all = gridCases().map((c) =>
    optionsOf(caseOn({ kind, properties: { computeMajor: 9 } }, c)),
  );
  const optional = names.filter((name) => !required.includes(name));

  test.each(optional)("have the default of %s beside keys of every dtype", (name) => {
    const given = new Set<DType>();
    const left = new Set<DType>();
    for (const options of all) {
      const { kvDtype = options.dtype } = options;
      given.add(kvDtype);
      if (isDefault(options, name)) left.add(kvDtype);
    }
    if (name === "kvDtype") return expect([...left].sort()).toEqual([...dtypesOn(kind)].sort());
    expect([...left].sort()).toEqual([...given].sort());
  });

  const varied = optional.filter((name) => ![...elsewhere, ...unused].includes(name));
  test.each(varied)("have more than the default of %s", (name) => {
    expect(all.some((options) => !isDefault(options, name))).toBe(true);
  });

  const listed = names.filter((name) => "enum" in schemas[name]);
  test.each(listed)("have every %s", (name) => {
    const seen = [...new Set(all.map((options) => valueOf(options, name)))];
    const { enum: allowed } = schemas[name] as unknown as { enum: string[] };
    const refused = kind === "cuda" && name !== "outDtype" ? "f32" : "";
    expect(seen.sort()).toEqual(allowed.filter((value) => value !== refused).sort());
  });
});

/** Queries' own dtypes, which keys have by default. */
function dtypesOn(kind: "cpu" | "cuda"): DType[] {
  const every: DType[] = ["f16", "bf16", "f8e4m3", "f8e5m2"];
  return kind === "cpu" ? ["f32", ...every] : every;
}
