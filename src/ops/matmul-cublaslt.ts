import { cublasLtVariable, openCublasLt } from "../device/cublaslt.ts";
import { GrowingBuffer } from "../device/ring.ts";
import type { Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import type { MatmulParams } from "../ffi/params.gen.ts";
import { check, failureOf, Status } from "../ffi/status.ts";
import { type DType, isFp8 } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Weight } from "../tensor/weight.ts";
import type { MatmulOptions } from "./matmul-options.ts";

const backend = "cublaslt";
const leaveOut = "leave backend out.";

/** Bytes that NVIDIA advises for its kernels between each other, from compute capability 9.0 on. */
const workspaceBytes = { hopper: 32 << 20, before: 4 << 20 };

const byStream = new WeakMap<Stream, GrowingBuffer>();

/**
 * Throws an OptionError where cuBLASLt cannot be what a product is asked of: there is none, or it
 * has no such products. Which shapes it has of the others, it says itself.
 */
export function requireCublasLt(
  x: Tensor,
  weight: Weight,
  options: MatmulOptions,
  outDtype: DType,
): void {
  const { device } = x;
  if (device.kind === "cpu")
    throw new OptionError("backend", backend, `"flashbun" on ${device.label}`, leaveOut);
  const { activation = "none", gated, invariant, groups } = options;
  if (activation !== "none") throw refusal("activation", activation, '"none"');
  if (gated === true) throw refusal("gated", gated, "false");
  if (invariant === true) throw refusal("invariant", invariant, "false");
  if (groups !== undefined) throw refusal("groups", groups, "left out, as are experts,");
  requireOperands(x, weight, options);
  requireAdded(x, options, outDtype);
  const { emulated, driverVersion } = device.properties;
  // NVIDIA's own would look for a GPU of NVIDIA's.
  if (emulated !== 0 && !process.env[cublasLtVariable]) {
    const allowed = `"flashbun" on ${device.label}, which is emulated`;
    throw new OptionError("backend", backend, allowed, leaveOut);
  }
  const major = Math.floor(driverVersion / 1000);
  const library = openCublasLt(major);
  if (typeof library === "object") return;
  const pip = major < 13 ? "nvidia-cublas-cu12" : "nvidia-cublas";
  const fix = `pip install ${pip}, set ${cublasLtVariable} to its path, or leave it out.`;
  throw new OptionError("backend", backend, `"flashbun", as ${library}`, fix);
}

function refusal(option: string, value: unknown, allowed: string): OptionError {
  return new OptionError(option, value, `${allowed} with backend "${backend}"`, leaveOut);
}

function requireOperands(x: Tensor, weight: Weight, { scales }: MatmulOptions): void {
  const { scheme } = weight;
  const isPair = isFp8(x.dtype)
    ? scheme.kind === "fp8" && scheme.scales.elements === 1
    : scheme.kind === "dense" && scheme.values.dtype === x.dtype;
  const held = isFp8(x.dtype) ? "of fp8 with one scale" : `of ${x.dtype}`;
  if (!isPair) throw refusal("weight", weight.label, held);
  if (scales !== undefined && scales.elements > 1) throw refusal("scales", scales.label, "[1]");
  if (!isApart(x)) throw refusal("x", `a row stride of ${x.strides[0]}`, `${x.shape[1]} or more`);
}

function requireAdded(x: Tensor, { bias, residual }: MatmulOptions, outDtype: DType): void {
  const biasDtype = isFp8(x.dtype) && outDtype === "f32" ? "bf16" : outDtype;
  if (bias !== undefined && bias.dtype !== biasDtype)
    throw refusal("bias", bias.label, `of ${biasDtype}`);
  if (residual === undefined) return;
  if (residual.dtype !== outDtype) throw refusal("residual", residual.label, `of ${outDtype}`);
  const { strides, shape } = residual;
  if (!isApart(residual))
    throw refusal("residual", `a row stride of ${strides[0]}`, `${shape[1]} or more`);
}

/** Whether rows do not overlap. */
function isApart({ shape, strides }: Tensor): boolean {
  return shape[0] <= 1 || strides[0] >= shape[1];
}

/**
 * Queues the product of these parameters into `out`, which goes where that fails and it is new.
 * Errors: OptionError for one that cuBLASLt does not have, before anything is queued, DeviceError
 * with its own name of what failed, OutOfMemoryError.
 */
export function multiplyByCublasLt(
  params: MatmulParams,
  out: Tensor,
  stream: Stream,
  isNew: boolean,
): Tensor {
  try {
    queue(params, out, stream);
    return out;
  } catch (error) {
    if (isNew) out[Symbol.dispose]();
    throw error;
  }
}

function queue(params: MatmulParams, { device }: Tensor, stream: Stream): void {
  const { hopper, before } = workspaceBytes;
  const bytes = device.properties.computeMajor >= 9 ? hopper : before;
  let workspace = byStream.get(stream);
  if (workspace === undefined) {
    workspace = new GrowingBuffer(device, `cuBLASLt workspace of ${stream.label}`);
    byStream.set(stream, workspace);
    stream.owned.push(workspace);
  }
  workspace.ensure(bytes, true);
  if (device.capturing) {
    device.needOnReplay(workspace.lend());
    device.captures.keepOrder(workspace, stream);
  }
  const status = device.launchCublasLt(stream, params, workspace.address, bytes);
  if (status !== Status.unsupported) return check(status, "matmul");
  const why = failureOf(status, "it").message;
  const allowed = `"flashbun", as cuBLASLt has no such product (${why})`;
  throw new OptionError("backend", backend, allowed, leaveOut);
}
