/**
 * Code that is reached without its function's start being called: parts that compilers split off.
 */
import type { Bytes } from "../bytes.ts";
import { type Elf, fileOffsetOf } from "./elf.ts";
import type { HostFunctions } from "./functions.ts";

const jump = 0xe9;
const longOpcode = 0x0f;
const conditionalJumpFirst = 0x80;
const conditionalJumpLast = 0x8f;

/**
 * The functions of `entered` and all that a direct jump in them lands inside of, and so on: x86-64
 * compilers move code that is rarely run to other sections and jump into its middle. Every byte is
 * taken for the start of a jump, so that some are found which are none: too much stays, never too
 * little.
 * @param functions all functions, by ascending address
 * @param entered addresses of functions
 */
export function reachableFunctions(
  elf: Elf,
  functions: HostFunctions,
  entered: Iterable<number>,
): HostFunctions {
  const reached = new Set(entered);
  const queue = functions.filter(([address]) => reached.has(address));
  for (let next = 0; next < queue.length; next++) {
    const [address, bytes] = queue[next];
    const offset = fileOffsetOf(elf, address, bytes);
    if (offset === undefined) continue;
    for (const target of jumpTargets(elf.bytes, offset, bytes, address)) {
      const found = functionAt(functions, target);
      if (found === undefined || found[0] === target || reached.has(found[0])) continue;
      reached.add(found[0]);
      queue.push(found);
    }
  }
  return queue.sort((a, b) => a[0] - b[0]);
}

/** Targets outside [address, address + count) of what may be jumps in there. */
function* jumpTargets(bytes: Bytes, offset: number, count: number, address: number) {
  const code = bytes.slice(offset, count);
  for (let at = 0; at + 5 <= count; at++) {
    const opcode = code[at];
    let end = at;
    if (opcode === jump) end = at + 5;
    else if (opcode === longOpcode) {
      const second = code[at + 1];
      if (second >= conditionalJumpFirst && second <= conditionalJumpLast) end = at + 6;
    }
    if (end === at || end > count) continue;
    const target = address + end + bytes.i32(offset + end - 4);
    if (target < address || target >= address + count) yield target;
  }
}

/** The function that holds an address. */
function functionAt(functions: HostFunctions, address: number) {
  let low = 0;
  let high = functions.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (functions[middle][0] <= address) low = middle + 1;
    else high = middle;
  }
  const found = functions[low - 1];
  return found !== undefined && address < found[0] + found[1] ? found : undefined;
}
