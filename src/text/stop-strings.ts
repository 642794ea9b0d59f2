/** Cuts a text that comes in pieces before the first of some strings. */
export class StopStrings {
  readonly #stops: readonly string[];
  /** What may be the beginning of one of them: not told yet. */
  #held = "";
  /** The one that was found; undefined before. */
  found: string | undefined;

  /** @param stops none of them empty */
  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /** What of the text so far may be told now. After `found` is set there is no more. */
  push(piece: string): string {
    if (this.#stops.length === 0 || this.found !== undefined) return piece;
    const text = this.#held + piece;
    let first = text.length;
    for (const stop of this.#stops) {
      const at = text.indexOf(stop);
      if (at < 0 || at >= first) continue;
      first = at;
      this.found = stop;
    }
    const told = this.found === undefined ? first - this.#heldLength(text) : first;
    this.#held = text.slice(told);
    return text.slice(0, told);
  }

  /** What was held back, at the end of a text in which none was found. */
  end(): string {
    const held = this.found === undefined ? this.#held : "";
    this.#held = "";
    return held;
  }

  /** How much of the text's end begins one of the strings. */
  #heldLength(text: string): number {
    let most = 0;
    for (const stop of this.#stops) {
      let length = Math.min(stop.length - 1, text.length);
      while (length > most && !stop.startsWith(text.slice(text.length - length))) length--;
      most = Math.max(most, length);
    }
    return most;
  }
}
