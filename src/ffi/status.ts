import { CudaError, DeviceError, OutOfMemoryError } from "../errors.ts";
import { native } from "./library.ts";
import { Failure } from "./params.gen.ts";

/** Status codes of zig/status.zig. */
export const Status = {
  ok: 0,
  invalidArgument: 1,
  outOfMemory: 2,
  frozen: 3,
  unsupported: 4,
  notFound: 5,
  notReady: 6,
  deviceFailed: 7,
  capture: 8,
  system: 9,
  cuda: 10,
  ranks: 11,
} as const;

const last = new Failure();

/** Throws the error of a status unless it is ok; `what` names the operation. */
export function check(status: number, what: string): void {
  if (status !== Status.ok) throw failureOf(status, what);
}

/** The error of a status that is not ok, with what the native side says of it on this thread. */
export function failureOf(status: number, what: string): DeviceError | OutOfMemoryError {
  native().fb_last_failure(last.view);
  const message = `${what}: ${last.text}`;
  if (status === Status.outOfMemory)
    return new OutOfMemoryError(last.askedBytes, last.freeBytes, message);
  const { cudaResult, driverName } = last;
  return cudaResult === 0
    ? new DeviceError(status, message)
    : new CudaError(status, cudaResult, driverName, message);
}
