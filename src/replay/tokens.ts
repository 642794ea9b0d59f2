/** Bits of a token id. */
const idBits = 17;

/** Token ids are below this. */
export const vocabulary = 1 << idBits;

/** A token id from two numbers: the same pair gives the same id, on every machine. */
export function tokenOf(source: number, index: number): number {
  let z = (Math.imul(source | 0, 0x9e3779b1) + Math.imul(index | 0, 0x85ebca77) + 0x165667b1) | 0;
  // The part of `source` above 32 bits counts too.
  z ^= Math.imul(Math.floor(source / 4294967296) | 0, 0xc2b2ae3d);
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return (z ^ (z >>> 15)) >>> (32 - idBits);
}
