import type { Device } from "../../src/device/device.ts";
import type { Memory } from "../../src/device/memory.ts";
import { VariantProbeParams } from "../../src/ffi/params.gen.ts";
import { sectionNames, type SectionName } from "../../src/variant/bytecode.ts";
import { type InputName, tensorAxesMax } from "../../src/variant/expression.ts";
import { keyInputs, rowInputs } from "./expressions.ts";

/** What a section of bytecode runs over. */
export interface ProbeCase {
  program: Int32Array;
  section: SectionName;
  rows: Partial<Record<InputName, number>>[];
  keys: Partial<Record<InputName, number>>[];
  /** Logits: [rows, keys]; else [rows or keys, dim]. */
  x: ArrayLike<number>;
  dim?: number;
  /** Keys lie along vectors, as in decode; default rows do. */
  keysInside?: boolean;
  /** Asks which pairs see each other. */
  masked?: boolean;
  /** Scalars as numbers; those of `whole` are i32. */
  scalars?: readonly number[];
  whole?: readonly boolean[];
  tensors?: readonly { address: number; sizes: readonly number[]; strides: readonly number[] }[];
}

const numbers = new Float32Array(1);
const bits = new Int32Array(numbers.buffer);

/** The bits of a number as f32. */
export function bitsOf(value: number): number {
  numbers[0] = value;
  return bits[0];
}

/** Runs sections of bytecode on a CPU device. */
export class VariantProbe implements Disposable {
  readonly #device: Device;
  readonly #memory: Memory;
  readonly #i32: Int32Array;
  readonly #f32: Float32Array;
  readonly #params = new VariantProbeParams();

  constructor(device: Device) {
    this.#device = device;
    this.#memory = device.alloc(4 << 20, "variant probe");
    this.#i32 = new Int32Array(this.#memory.hostBytes());
    this.#f32 = new Float32Array(this.#memory.hostBytes());
  }

  /** x as the program leaves it; throws what the device does. */
  run(c: ProbeCase): Float32Array {
    const { rows, keys, scalars = [], whole = [], tensors = [] } = c;
    const { address } = this.#memory;
    const p = this.#params;
    let used = 0;
    const place = (words: ArrayLike<number>, as: Int32Array | Float32Array = this.#i32) => {
      const at = used;
      as.set(words, at);
      used += Math.ceil(words.length / 16) * 16;
      return address + 4 * at;
    };
    p.variantProgram = place(c.program);
    p.variantProgramWords = c.program.length;
    p.rows = place([
      ...rowInputs.flatMap((name) => rows.map((row) => row[name] ?? 0)),
      ...rows.map((row) => bitsOf(row.lse ?? 0)),
    ]);
    p.keys = place(keyInputs.flatMap((name) => keys.map((key) => key[name] ?? 0)));
    const first = used;
    p.x = place(c.x, this.#f32);
    p.rowCount = rows.length;
    p.keyCount = keys.length;
    p.dim = c.dim ?? 1;
    p.section = sectionNames.indexOf(c.section);
    p.keysInside = c.keysInside ? 1 : 0;
    p.masked = c.masked ? 1 : 0;
    scalars.forEach((value, i) => p.setVariantScalars(i, whole[i] ? value : bitsOf(value)));
    tensors.forEach((tensor, i) => {
      p.setVariantData(i, tensor.address);
      for (let axis = 0; axis < tensorAxesMax; axis++) {
        p.setVariantSizes(i * tensorAxesMax + axis, tensor.sizes[axis] ?? 1);
        p.setVariantStrides(i * tensorAxesMax + axis, tensor.strides[axis] ?? 0);
      }
    });
    const { stream } = this.#device;
    this.#device.launch(stream, this.#device.kernel("variant_probe"), p, 1);
    stream.wait();
    return this.#f32.slice(first, first + c.x.length);
  }

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
  }
}
