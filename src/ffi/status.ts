import { CudaError, DeviceError, OutOfMemoryError } from "../errors.ts";
import { native } from "./library.ts";

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
} as const;

const text = new Uint8Array(new ArrayBuffer(512));
const decoder = new TextDecoder();

/** The native side's last sentence on this thread. */
export function lastError(): string {
  const length = native().fb_last_error(text, text.length);
  return decoder.decode(text.subarray(0, length));
}

/** Throws a DeviceError or OutOfMemoryError unless `status` is ok; `what` names the operation. */
export function check(status: number, what: string): void {
  if (status !== Status.ok) throw failureOf(status, what);
}

/** The error of a status that is not ok. */
export function failureOf(status: number, what: string): DeviceError | OutOfMemoryError {
  const sentence = lastError();
  if (status === Status.outOfMemory) {
    const [, asked = 0, free = 0] = /(\d+) bytes asked, (\d+) of/.exec(sentence)?.map(Number) ?? [];
    return new OutOfMemoryError(asked, free, `${what}: ${sentence}`);
  }
  const message = `${what}: ${sentence}`;
  return sentence.includes("CUDA_ERROR_")
    ? new CudaError(status, message)
    : new DeviceError(status, message);
}
