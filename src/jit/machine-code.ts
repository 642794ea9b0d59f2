/** What ptxas makes of kernels that it should not, read from the instructions. */

/** Of an ELF file of 64 bits: where its sections are, and how many. */
const elfHeader = { sections: 40, count: 60, names: 62 };
/** Of a section: its name within the section of names, what it is, where it lies. */
const section = { name: 0, type: 4, flags: 8, offset: 24, bytes: 32, entryBytes: 64 };
const executable = 4n;
const noBytes = 8;

/** Bytes of an instruction. */
const instructionBytes = 16;
/** Bits 0 to 8 of VIMNMX, the smaller or the larger of two integers, from sm_90 on. */
const clampCode = 0x048;
/** Bit 76: a result below 0 becomes 0. */
const isRelu = 1 << 12;
/** Bits 81 to 86: the two predicates that are set; all ones is none. */
const predicates = 0x3f << 17;

/**
 * Sentences about clamps by VIMNMX.RELU that set a predicate in an image of a compiler. ptxas
 * 13.0.88 writes one for `max(min(x, 4), 0) == 4` and takes the predicate for the comparison, which
 * it is not.
 */
export function readClampFaults(image: Uint8Array): string[] {
  return codeOf(image).flatMap(({ kernel, code }) => {
    let count = 0;
    for (let at = 0; at + instructionBytes <= code.byteLength; at += instructionBytes) {
      if ((code.getUint32(at, true) & 0x1ff) !== clampCode) continue;
      const high = code.getUint32(at + 8, true);
      if ((high & isRelu) !== 0 && (high & predicates) !== predicates) count++;
    }
    const fault = `${kernel} compares what is clamped at 0 and above by a wrong predicate`;
    return count === 0 ? [] : [`${fault} (${count} VIMNMX.RELU): clamp it at one end`];
  });
}

/** The instructions of each kernel of an ELF file. */
function codeOf(image: Uint8Array): { kernel: string; code: DataView }[] {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  const first = Number(view.getBigUint64(elfHeader.sections, true));
  const at = (index: number) => first + index * section.entryBytes;
  const placeOf = (entry: number) => Number(view.getBigUint64(entry + section.offset, true));
  const names = placeOf(at(view.getUint16(elfHeader.names, true)));
  const entries = Array.from({ length: view.getUint16(elfHeader.count, true) }, (_, i) => at(i));
  return entries.flatMap((entry) => {
    const isCode = (view.getBigUint64(entry + section.flags, true) & executable) !== 0n;
    if (!isCode || view.getUint32(entry + section.type, true) === noBytes) return [];
    const name = names + view.getUint32(entry + section.name, true);
    const bytes = Number(view.getBigUint64(entry + section.bytes, true));
    const text = Buffer.from(image.subarray(name, image.indexOf(0, name))).toString();
    const code = new DataView(image.buffer, image.byteOffset + placeOf(entry), bytes);
    return [{ kernel: text.replace(/^\.text\./, ""), code }];
  });
}
