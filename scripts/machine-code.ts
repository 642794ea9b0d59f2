/** What ptxas makes of kernels that it should not, read from the instructions. */
import { Bytes } from "../src/debloat/bytes.ts";
import { readElf, sectionFlag } from "../src/debloat/elf/elf.ts";

/** Bytes of an instruction. */
const instructionBytes = 16;
/** Bits 0 to 8 of VIMNMX, the smaller or the larger of two integers, from sm_90 on. */
const clampCode = 0x048;
/** Bit 76: a result below 0 becomes 0. */
const isRelu = 1 << 12;
/** Bits 81 to 86: the two predicates that are set; all ones is none. */
const predicates = 0x3f << 17;

/**
 * Sentences about clamps by VIMNMX.RELU that set a predicate. ptxas 13.0.88 writes one for
 * `max(min(x, 4), 0) == 4` and takes the predicate for the comparison, which it is not.
 */
export function readClampFaults(image: Uint8Array): string[] {
  const elf = readElf(new Bytes(image, "a cubin"));
  return elf.sections
    .filter(({ flags, fileBytes }) => (flags & sectionFlag.exec) !== 0 && fileBytes > 0)
    .flatMap(({ name, offset, fileBytes }) => {
      let count = 0;
      for (let at = offset; at < offset + fileBytes; at += instructionBytes) {
        if ((elf.bytes.u32(at) & 0x1ff) !== clampCode) continue;
        const high = elf.bytes.u32(at + 8);
        if ((high & isRelu) !== 0 && (high & predicates) !== predicates) count++;
      }
      const kernel = name.replace(/^\.text\./, "");
      const fault = `${kernel} compares what is clamped at 0 and above by a wrong predicate`;
      return count === 0 ? [] : [`${fault} (${count} VIMNMX.RELU): clamp it at one end`];
    });
}
