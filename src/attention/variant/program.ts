import type { Device } from "../../device/device.ts";
import type { Memory } from "../../device/memory.ts";
import { OptionError } from "../../errors.ts";
import { dumpSource } from "../../jit/dump.ts";
import { emitBytecode } from "../../variant/emit-bytecode.ts";
import { listing } from "../../variant/listing.ts";
import { stage } from "../../variant/stages.ts";
import type { Variant } from "../../variant/variant.ts";

/**
 * A variant's bytecode in the CPU device's memory, which outlives work that is queued when its
 * owner goes. Errors: OptionError for hooks in CUDA.
 */
export function variantProgram(device: Device, variant: Variant): Memory {
  if (variant.cuda !== undefined) {
    const fix = "write the hooks with defineVariant, or open a GPU.";
    throw new OptionError("variant", variant.name, "without CUDA source on the CPU", fix);
  }
  dumpSource(`variant ${variant.name}`, listing(variant));
  const program = emitBytecode(stage(variant));
  const memory = device.alloc(program.byteLength, `variant ${variant.name}`);
  new Int32Array(memory.hostBytes()).set(program);
  return memory;
}
