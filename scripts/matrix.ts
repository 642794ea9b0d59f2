/** The kernels that are compiled ahead of time into the library with `zig build -Dcuda=true`. */
import { operators } from "../src/device/operators.ts";
import type { Specialization } from "../src/jit/specialization.ts";

/** A specialisation under a short name. */
export interface MatrixEntry extends Specialization {
  readonly name: string;
}

/** sm_80 code runs on every GPU of 8.x; sm_90a only on 9.0. */
export const architectures: readonly string[] = ["sm_80", "sm_90a"];

/** Kernels that every GPU loads when it is opened. */
const always = Object.keys(operators).map((source) => ({
  ...{ name: source.replace(/\/.*/, ""), source },
  constants: {},
}));

/** What is compiled for each architecture. */
export const matrix: readonly MatrixEntry[] = [
  ...always,
  { name: "merge of rows", source: "attention/merge/merge.cu", constants: {} },
];
