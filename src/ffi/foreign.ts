import { CFunction } from "bun:ffi";
import { type Address, borrow, native } from "./library.ts";

/** Calls a foreign `void (*deleter)(void* managed)`, once. */
export function callDeleter(deleter: Address, managed: Address): void {
  const call = CFunction({ ptr: deleter as never, args: ["u64"], returns: "void" });
  try {
    call(managed);
  } finally {
    call.close();
  }
}

/**
 * Native memory at an address, for reading and writing structs: the caller knows that it is there.
 */
export function nativeView(address: Address, byteLength: number): DataView<ArrayBuffer> {
  return new DataView(borrow(address, byteLength));
}

/** Address of the native deleter of exported tensors. */
export function exportDeleter(): Address {
  return (native().fb_dlpack_deleter as unknown as { ptr: Address }).ptr;
}
