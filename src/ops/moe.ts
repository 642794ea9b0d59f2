import { requireStream, type Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { CombineParams } from "../ffi/params.gen.ts";
import { requireOptions } from "../require.ts";
import { dtypeCode } from "../tensor/dtype.ts";
import { isInPlace, requireApart, requireDistinct } from "../tensor/overlap.ts";
import { Tensor } from "../tensor/tensor.ts";
import { requireWeight, type Weight } from "../tensor/weight.ts";
import { matmul } from "./matmul.ts";
import type { Activation, MatmulOptions } from "./matmul-options.ts";
import { needRows, numbers, requireAllApart, requireRows, requireShape } from "./rows.ts";
import { type ExpertRouting, requireRouting } from "./routing.ts";

/** Where the sum over experts goes. */
export interface CombineOptions {
  /** Added to the sum: of its shape; f32, f16 or bf16. It may be `out`. */
  residual?: Tensor;
  /** Takes the result, of f32, f16 or bf16; default: a new tensor of y's dtype. */
  out?: Tensor;
  /** Default: the device's own. */
  stream?: Stream;
}

const combineKnown = ["residual", "out", "stream"];
const params = new CombineParams();

/**
 * Queues out[token] = residual[token] + the sum over the token's experts of weight times row, for
 * `y` [tokens * topK, dim] in the order of experts; returns out, [tokens, dim]. Sums are f32, in
 * the order of the slots. Errors: OptionError.
 */
export function combineExperts(
  y: Tensor,
  routing: ExpertRouting,
  options: CombineOptions = {},
): Tensor {
  requireOptions("options", options, combineKnown);
  requireRows("y", y, undefined);
  const { device } = y;
  requireRouting("routing", routing, device);
  const { tokens, topK } = routing;
  const dim = y.shape[1];
  requireShape("y", y, [tokens * topK, dim]);
  const { residual, stream = device.stream } = options;
  requireStream(stream, device);
  const shape = [tokens, dim];
  if (residual !== undefined) {
    requireRows("residual", residual, device, numbers);
    requireShape("residual", residual, shape);
  }
  const out = options.out ?? Tensor.empty(device, shape, y.dtype, "combineExperts");
  checkOut(out, y, routing, residual);
  if (tokens === 0) return out;
  if (device.capturing) device.needOnReplay(routing);
  needRows(device, y, residual, out);
  params.y = y.address;
  params.yStride = y.strides[0];
  params.yDtype = dtypeCode(y.dtype);
  params.weights = routing.weights.address;
  params.places = routing.places.address;
  params.residual = residual?.address ?? 0;
  params.residualStride = residual?.strides[0] ?? 0;
  params.residualDtype = dtypeCode(residual?.dtype ?? y.dtype);
  params.out = out.address;
  params.outStride = out.strides[0];
  params.outDtype = dtypeCode(out.dtype);
  [params.tokenCount, params.entryCount, params.topK, params.dim] = [
    tokens,
    tokens * topK,
    topK,
    dim,
  ];
  device.launch(stream, device.kernel("moe_combine"), params, tokens);
  return out;
}

function checkOut(
  out: Tensor,
  y: Tensor,
  { tokens, weights, places }: ExpertRouting,
  residual: Tensor | undefined,
): void {
  requireRows("out", out, y.device, numbers);
  requireShape("out", out, [tokens, y.shape[1]]);
  requireDistinct("out", out);
  requireAllApart("out", out, { y, "routing.weights": weights, "routing.places": places });
  if (residual !== undefined && !isInPlace(out, residual))
    requireApart("out", out, "residual, or the residual itself", residual);
}

/** The weights of a mixture of experts, and what lies between them. */
export interface MoeOptions extends CombineOptions {
  /** Rows of the gates, then those that go through them: [experts, 2 * hidden, dim]. */
  gateUp: Weight;
  /** Back to the model's width: [experts, dim, hidden]. */
  down: Weight;
  /** Of the gate; default "silu". */
  activation?: Activation;
  /** As {@link MatmulOptions.invariant}, of both products. */
  invariant?: boolean;
  /** [tokens * topK, hidden] of x's dtype, for what lies between; default: a new tensor. */
  hidden?: Tensor;
  /** [tokens * topK, dim] of x's dtype, for the experts' rows; default: a new tensor. */
  results?: Tensor;
}

const moeKnown = [
  "gateUp",
  "down",
  "activation",
  "invariant",
  "hidden",
  "results",
  ...combineKnown,
];

/**
 * Queues a mixture of gated experts over `x` [tokens, dim], as `routing` says: out = the sum over a
 * token's experts of weight * down(activation(gate(x)) * up(x)); returns out, [tokens, dim]. Three
 * launches. Without `hidden` and `results` these are allocated. Errors: OptionError.
 */
export function moe(x: Tensor, routing: ExpertRouting, options: MoeOptions): Tensor {
  requireOptions("options", options, moeKnown);
  const { gateUp, down, activation = "silu", invariant = false } = options;
  const { hidden, results, stream } = options;
  requireRows("x", x, undefined);
  requireRouting("routing", routing, x.device);
  requireShape("x", x, [routing.tokens, x.shape.at(-1)!]);
  for (const [name, weight] of [
    ["gateUp", gateUp],
    ["down", down],
  ] as const) {
    requireWeight(name, weight);
    if (weight.experts === routing.expertCount) continue;
    const allowed = `a weight of ${routing.expertCount} experts`;
    throw new OptionError(name, weight.label, allowed, "as many as the router's logits have.");
  }
  const { starts, rows } = routing;
  const how = { invariant, stream };
  const inner = { gated: true, activation, groups: { starts, rows } };
  const between = matmul(x, gateUp, { ...how, ...inner, out: hidden });
  const each = matmul(between, down, { ...how, groups: { starts }, out: results });
  const { residual, out } = options;
  const sum = combineExperts(each, routing, { residual, out, stream });
  if (hidden === undefined) between[Symbol.dispose]();
  if (results === undefined) each[Symbol.dispose]();
  return sum;
}
