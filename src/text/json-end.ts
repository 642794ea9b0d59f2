/** Finds where a JSON value that comes in pieces ends; it looks at brackets and quotes alone. */
export class JsonEnd {
  #depth = 0;
  #isText = false;
  #isEscaped = false;
  #began = false;

  /** How many characters of the next piece belong to the value, and whether it ends with them. */
  push(piece: string): { length: number; isOver: boolean } {
    for (let i = 0; i < piece.length; i++) {
      const character = piece[i];
      if (this.#isText) {
        if (this.#isEscaped) this.#isEscaped = false;
        else if (character === "\\") this.#isEscaped = true;
        else if (character === '"') {
          this.#isText = false;
          if (this.#depth === 0) return { length: i + 1, isOver: true };
        }
        continue;
      }
      const isBlank = /\s/.test(character);
      // Numbers and words end where something else begins.
      if (this.#depth === 0 && this.#began && (isBlank || ",}]".includes(character)))
        return { length: i, isOver: true };
      if (!isBlank) this.#began = true;
      if (character === '"') this.#isText = true;
      else if (character === "{" || character === "[") this.#depth++;
      else if (character === "}" || character === "]") {
        this.#depth--;
        if (this.#depth <= 0) return { length: i + 1, isOver: true };
      }
    }
    return { length: piece.length, isOver: false };
  }
}
