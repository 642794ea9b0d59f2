/** The kernels that are compiled ahead of time into the library with `zig build -Dcuda=true`. */
import { cudaMerge } from "../src/attention/families/cuda.ts";
import { offerOf } from "../src/attention/families/resolve.ts";
import { families } from "../src/attention/families/table.ts";
import { type AttentionOptions, resolveOptions } from "../src/attention/options.ts";
import { architectureFacts } from "../src/jit/architectures.ts";
import { operatorSources } from "../src/jit/operators.ts";
import type { Specialization } from "../src/jit/specialization.ts";

/** A specialisation under a short name. */
export interface MatrixEntry extends Specialization {
  readonly name: string;
}

/**
 * What images are compiled for ahead of time: sm_75 code runs on a T4 and all of its generation,
 * sm_80 code on every GPU of 8.x, sm_90a on 9.0.
 */
export const architectures: readonly string[] = ["sm_75", "sm_80", "sm_90a"];

type Shape = Pick<
  AttentionOptions,
  "headDim" | "valueDim" | "dtype" | "kvDtype" | "softCap" | "alibi" | "keyPlane" | "valuePlane"
>;

/** The common shapes: dims of most models, fp8 keys and values, hooks of options. */
const shapes: readonly Shape[] = [
  { headDim: 64, dtype: "bf16" },
  { headDim: 128, dtype: "bf16" },
  { headDim: 256, dtype: "bf16" },
  { headDim: 512, dtype: "bf16" },
  { headDim: 64, dtype: "f16" },
  { headDim: 128, dtype: "f16" },
  { headDim: 128, dtype: "bf16", kvDtype: "f8e4m3" },
  { headDim: 128, dtype: "f8e4m3" },
  { headDim: 128, dtype: "bf16", softCap: 50 },
  { headDim: 256, dtype: "bf16", softCap: 50 },
  { headDim: 128, dtype: "bf16", alibi: true },
  { headDim: 576, valueDim: 512, dtype: "bf16", keyPlane: "latent", valuePlane: "latent" },
];

/** Kernels that every GPU has, whatever its attention. */
const always: readonly MatrixEntry[] = operatorSources().map((source) => ({
  name: source.replace(/\/.*/, ""),
  source,
  constants: {},
}));

/** What is compiled for an architecture. */
export function matrixOf(architecture: string): readonly MatrixEntry[] {
  // Turing knows no bf16, and before Hopper fp8 queries are compiled when they are asked for.
  const known = { sm_75: ["f16"], sm_80: ["f16", "bf16"] }[architecture];
  const some = shapes.filter(({ dtype }) => known?.includes(dtype) !== false);
  const attention = some.flatMap((shape) => {
    // Heads, masks and everything else that is no constant of the kernels may be anything.
    const options = resolveOptions({ queryHeads: 1, kvHeads: 1, ...shape });
    const { classes } = offerOf(families.cuda, architectureFacts(architecture), options);
    const kernels = classes.flatMap(({ name, image, fewKernel }) => [
      { name, image: image! },
      ...(fewKernel === undefined ? [] : [{ name: `${name} few`, image: fewKernel.image! }]),
    ]);
    // Those that are only launched otherwise, or take other steps, share an image.
    const images = kernels.map(({ image }) => JSON.stringify(image));
    return kernels.flatMap(({ name, image }, i) => {
      if (images.indexOf(images[i]) !== i) return [];
      const { headDim, dtype, kvDtype = dtype, softCap, alibi } = shape;
      const hook = softCap ? " soft-cap" : alibi ? " ALiBi" : "";
      return { name: `${name} d${headDim} ${dtype}/${kvDtype}${hook}`, ...image };
    });
  });
  const merge = { name: "merge of rows", ...cudaMerge(undefined).image! };
  return [...always, merge, ...attention];
}
