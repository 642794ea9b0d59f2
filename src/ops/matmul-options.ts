import type { Stream } from "../device/stream.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** An activation function: x times the logistic or the normal distribution of x, or tanh's. */
export type Activation = "none" | "silu" | "gelu" | "gelu-tanh";

/** Which rows take which weight of a stack (a mixture of experts, LoRA's adapters). */
export interface RowGroups {
  /** i32 [experts + 1]: rows [starts[e], starts[e + 1]) of out take weight e. The rest is kept. */
  starts: Tensor;
  /** i32: of each row of out the row of x; -1 stands for zeros. Default: its own. */
  rows?: Tensor;
}

/** What a product is followed by, and where to it goes. */
export interface MatmulOptions {
  /** For a weight of experts, which must then have it. */
  groups?: RowGroups;
  /** [weight.outputs], of experts [experts, outputs], added to each row; f32 or x's dtype. */
  bias?: Tensor;
  /** Follows the bias; default "none". */
  activation?: Activation;
  /**
   * True: the first half of the weight's outputs is a gate, the second half goes through it: out =
   * activation(gate) * up, of half the columns. Default false.
   */
  gated?: boolean;
  /**
   * f32, of x in f8e4m3 or f8e5m2: [1], [rows] or, for each 128 inputs, [rows, inputs / 128]
   * rounded up. The result is then bf16 where `out` does not say f32 or f16.
   */
  scales?: Tensor;
  /** Added last: of out's shape, f32 or x's dtype. It may be `out`. */
  residual?: Tensor;
  /**
   * True: a row of the result has the same bits however many other rows there are, for x and a
   * weight that lie alike. Default false, which promises it for no later version.
   */
  invariant?: boolean;
  /**
   * True: rows of x may be rounded to whole numbers of 16 bits of the largest of each 32 inputs (an
   * error of 1.6e-5 of it at most) where a product with codes is faster so: with groups of 32 or
   * 128, on CPUs with AVX512_VNNI. What is not finite then makes its row NaN. Default false.
   */
  roundRows?: boolean;
  /**
   * True: the weight is written, and nothing that is queued writes it any more. Reading it may then
   * begin while the kernels before still run: on compute capability 9.0, for few rows of a dense or
   * fp8 weight's own type, without groups or `invariant`. Default false.
   */
  settled?: boolean;
  /**
   * "cublaslt": NVIDIA's cuBLASLt multiplies, where this machine has it: x and a weight of one
   * type, or of fp8 with one scale each, bias and residual of out's dtype (bias of fp8 rows bf16
   * where out is f32). Neither experts, activation, gate nor `invariant`. Default "flashbun".
   */
  backend?: "flashbun" | "cublaslt";
  /** Takes the result: of x's dtype or f32; apart from all inputs but the residual. */
  out?: Tensor;
  /** Default: the device's own. */
  stream?: Stream;
}
