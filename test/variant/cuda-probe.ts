import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Device } from "../../src/device/device.ts";
import { type CudaKernel, Module } from "../../src/device/kernel.ts";
import { jitTarget } from "../../src/device/operators.ts";
import { AttentionParams } from "../../src/ffi/params.gen.ts";
import { compile } from "../../src/jit/compile.ts";
import { sources } from "../../src/jit/sources.gen.ts";
import { expandSource } from "../../src/jit/specialization.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { emitCuda } from "../../src/variant/emit-cuda.ts";
import { tensorAxesMax } from "../../src/variant/expression.ts";
import type { Variant } from "../../src/variant/variant.ts";
import { keyInputs, type RandomExpression, rowInputs } from "../support/expressions.ts";

const path = "test/hooks.cu";
const own = readFileSync(join(import.meta.dir, "hooks.cu"), "utf8");

/**
 * One text with the hooks of all variants, and a kernel that runs the one its merge count names.
 */
function textOf(variants: readonly Variant[]): string {
  const structs = variants.map((variant, i) =>
    emitCuda(variant).attention.replace("struct Variant :", `struct Variant${i} :`),
  );
  const cases = variants.map((_, i) => `    case ${i}: return probe_logits<Variant${i}>(p);\n`);
  const kernel = "FB_KERNEL(probe_variants, fb_attention_params, 64, 1) {\n";
  const choice = `${kernel}    switch (p.merge_count) {\n${cases.join("")}    }\n}\n`;
  return expandSource(path, { ...sources, [path]: [own, ...structs, choice].join("\n") });
}

/** The kernel of some variants, compiled for a device. */
export async function probeOf(device: Device, variants: readonly Variant[]): Promise<CudaKernel> {
  const text = textOf(variants);
  const [architecture] = jitTarget(device).architectures;
  const image = await compile({ source: path, constants: {} }, text, architecture);
  return new Module(device, image, path).kernel("probe_variants", { threads: 64 });
}

const params = new AttentionParams();
const floats = new Float32Array(1);
const bits = new Int32Array(floats.buffer);

/** The values of the `which`-th variant over its expression's grid, on the device. */
export function runProbe(
  device: Device,
  kernel: CudaKernel,
  which: number,
  { variant, grid, scalars, tensors }: RandomExpression,
): Float64Array {
  const { rows, keys, x } = grid;
  const ints = (values: number[]) => Tensor.from(device, values, [values.length], "i32");
  using q = ints(rowInputs.flatMap((name) => rows.map((row) => row[name] ?? 0)));
  using k = ints(keyInputs.flatMap((name) => keys.map((key) => key[name] ?? 0)));
  using given = Tensor.from(device, x, [x.length], "f32");
  using out = Tensor.from(device, new Float64Array(x.length).fill(NaN), [x.length], "f32");
  params.q = q.address;
  params.kData = k.address;
  params.partialOut = given.address;
  params.out = out.address;
  params.recordCount = keys.length;
  params.mergeCount = which;
  scalars.forEach((value, i) => {
    floats[0] = value;
    params.setVariantScalars(i, variant.scalars[i].type === "f32" ? bits[0] : value);
  });
  const held = tensors.map(({ data, sizes }, i) => {
    const values = Float64Array.from(data);
    const tensor = Tensor.from(device, values, [...sizes], variant.tensors[i].dtype);
    params.setVariantData(i, tensor.address);
    for (let axis = 0; axis < tensorAxesMax; axis++) {
      params.setVariantSizes(i * tensorAxesMax + axis, sizes[axis] ?? 1);
      params.setVariantStrides(i * tensorAxesMax + axis, tensor.strides[axis] ?? 0);
    }
    return tensor;
  });
  device.launch(device.stream, kernel, params, 1);
  const values = out.toFloat64Array();
  for (const tensor of held) tensor[Symbol.dispose]();
  return values;
}
