/** Base of the generated packers: one native struct in memory whose address stays fixed. */
export abstract class Params {
  readonly i32: Int32Array;
  readonly f32: Float32Array;
  readonly view: Uint8Array<ArrayBuffer>;

  /** @param memory an ArrayBuffer made with an explicit size: small typed arrays would move */
  constructor(memory: ArrayBuffer, offset: number, byteLength: number) {
    this.view = new Uint8Array(memory, offset, byteLength);
    this.i32 = new Int32Array(memory, offset, byteLength >> 2);
    this.f32 = new Float32Array(memory, offset, byteLength >> 2);
  }

  /** Writes a 64-bit integer as two halves; exact for |value| < 2^53. */
  protected write64(index: number, value: number): void {
    this.i32[index] = value | 0;
    this.i32[index + 1] = Math.floor(value / 4294967296);
  }

  /** The text in `byteLength` bytes, which ends at the first zero. */
  protected textAt(offset: number, byteLength: number): string {
    const bytes = this.view.subarray(offset, offset + byteLength);
    const end = bytes.indexOf(0);
    return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
  }

  protected read64(index: number): number {
    return this.i32[index + 1] * 4294967296 + (this.i32[index] >>> 0);
  }
}
