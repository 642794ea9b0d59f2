import type { Matcher, State } from "./matcher.ts";

/** Every token's bytes in one tree: those that may come next are found in one walk. */
export class TokenTrie {
  /** Of each node in the order of a walk, its byte, its depth, and the node behind its subtree. */
  readonly #byte: Uint8Array;
  readonly #depth: Int32Array;
  readonly #end: Int32Array;
  /** Its tokens: [first, next node's first) of #tokens. */
  readonly #first: Int32Array;
  readonly #tokens: Int32Array;
  readonly #words: number;
  readonly #path: State[] = [];

  /** @param bytes by token id; undefined or empty: never allowed */
  constructor(bytes: readonly (Uint8Array | undefined)[]) {
    this.#words = Math.ceil(bytes.length / 32);
    const ids = [...bytes.keys()].filter((id) => (bytes[id]?.length ?? 0) > 0);
    ids.sort((a, b) => Buffer.compare(bytes[a]!, bytes[b]!));
    this.#tokens = Int32Array.from(ids);
    const byte: number[] = [];
    const depth: number[] = [];
    const first: number[] = [];
    const end: number[] = [];
    const path: number[] = [];
    let before = new Uint8Array(0);
    ids.forEach((id, at) => {
      const own = bytes[id]!;
      let shared = 0;
      while (shared < before.length && before[shared] === own[shared]) shared++;
      while (path.length > shared) end[path.pop()!] = byte.length;
      for (let i = shared; i < own.length; i++) {
        path.push(byte.length);
        byte.push(own[i]);
        depth.push(i);
        // A node on the way has no token of its own: its list ends where it begins.
        first.push(at);
      }
      before = own as Uint8Array<ArrayBuffer>;
    });
    while (path.length > 0) end[path.pop()!] = byte.length;
    first.push(ids.length);
    this.#byte = Uint8Array.from(byte);
    this.#depth = Int32Array.from(depth);
    this.#end = Int32Array.from(end);
    this.#first = Int32Array.from(first);
  }

  /** A bit for each token that may come next, from the lowest on; kept by the state. */
  allowed(matcher: Matcher, state: State): Int32Array {
    if (state.allowed !== undefined) return state.allowed;
    const bits = new Int32Array(this.#words);
    const path = this.#path;
    path[0] = state;
    for (let node = 0; node < this.#byte.length;) {
      const depth = this.#depth[node];
      const to = matcher.step(path[depth], this.#byte[node]);
      if (to === null) {
        node = this.#end[node];
        continue;
      }
      path[depth + 1] = to;
      for (let at = this.#first[node]; at < this.#first[node + 1]; at++)
        bits[this.#tokens[at] >> 5] |= 1 << (this.#tokens[at] & 31);
      node++;
    }
    state.allowed = bits;
    return bits;
  }
}
