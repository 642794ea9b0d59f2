import { CFunction, type Pointer, toArrayBuffer } from "bun:ffi";
import { type Address, dlpackDeleter, type Out } from "./symbols.ts";

/** Room for a handle or an address that a native function writes; it never moves. */
export function out<Value extends number = Address>(): Out<Value> {
  return new BigUint64Array(new ArrayBuffer(8));
}

/** The handle or address that was written. */
export function valueOf<Value extends number>(written: Out<Value>): Value {
  return Number(written[0]) as Value;
}

/** A text for a native function: UTF-8 that ends with a zero. */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`${text}\0`);
}

/** Native memory as an ArrayBuffer that borrows it: not to be used after the memory is freed. */
export function borrow(address: Address, byteLength: number): ArrayBuffer {
  // bun:ffi takes 0 bytes for a text that ends somewhere.
  return byteLength === 0 ? new ArrayBuffer(0) : toArrayBuffer(address, 0, byteLength);
}

/**
 * Native memory at an address, for reading and writing structs: the caller knows that it is there.
 */
export function nativeView(address: Address, byteLength: number): DataView<ArrayBuffer> {
  return new DataView(borrow(address, byteLength));
}

/** Where a function that bun:ffi opened lies; its types do not show that it says so. */
export function functionAddress(opened: unknown): Address {
  return Number((opened as { readonly ptr: number | bigint }).ptr);
}

/** Calls a foreign `void (*deleter)(void* managed)`, once. */
export function callDeleter(deleter: Address, managed: Address): void {
  const call = CFunction({ ptr: deleter as Pointer, ...dlpackDeleter });
  try {
    call(managed);
  } finally {
    call.close();
  }
}
