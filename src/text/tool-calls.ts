import { JsonEnd } from "./json-end.ts";
import type { ToolFormat } from "./tool-format.ts";

/** More of a call: its name with the first piece, then its arguments' JSON as it comes. */
export interface ToolCallPiece {
  /** Counts an answer's calls from 0. */
  readonly index: number;
  readonly name?: string;
  readonly arguments: string;
}

/** What a piece of an answer comes to. */
export interface ReadPiece {
  /** What is no part of a call. */
  readonly text: string;
  readonly calls: readonly ToolCallPiece[];
}

/** The usual beginning of a call, behind which its arguments can be told as they come. */
const head = /^\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\S)/;

/** Takes the calls of tools out of an answer that comes in pieces. */
export class ToolCallReader {
  readonly #format: ToolFormat;
  readonly #most: number;
  /** What has come and is not understood yet. */
  #held = "";
  #mode: "start" | "text" | "between" | "call" | "arguments" | "rest";
  #value = new JsonEnd();
  #count = 0;
  #text = "";
  #calls: ToolCallPiece[] = [];

  /**
   * @param isOpen whether the answer begins within calls
   * @param most calls that are read
   */
  constructor(format: ToolFormat, isOpen: boolean, most: number) {
    this.#format = format;
    this.#most = most;
    this.#mode = isOpen ? "between" : format.opening === "" ? "start" : "text";
  }

  /** Whether the last of the calls that are read is whole. */
  get isDone(): boolean {
    return this.#count === this.#most && ["between", "rest", "text"].includes(this.#mode);
  }

  /** What the next piece of the answer adds. */
  push(piece: string): ReadPiece {
    this.#held += piece;
    while (this.#held !== "" && this.#step());
    return this.#taken();
  }

  /** What was held back, at the answer's end. */
  end(): ReadPiece {
    if (this.#mode === "call" || this.#mode === "text" || this.#mode === "start")
      this.#say(this.#held);
    this.#held = "";
    return this.#taken();
  }

  #taken(): ReadPiece {
    const taken = { text: this.#text, calls: this.#calls };
    this.#text = "";
    this.#calls = [];
    return taken;
  }

  /** Takes something of what is held; false where more has to come. */
  #step(): boolean {
    switch (this.#mode) {
      case "start":
        return this.#begin();
      case "text":
        return this.#plain();
      case "between":
        return this.#between();
      case "call":
        return this.#call();
      case "arguments": {
        const { length, isOver } = this.#value.push(this.#held);
        this.#tell(this.#count - 1, this.#take(length));
        if (isOver) this.#mode = "rest";
        return true;
      }
      case "rest": {
        const close = this.#held.indexOf("}");
        this.#take(close < 0 ? this.#held.length : close + 1);
        if (close >= 0) this.#mode = "between";
        return true;
      }
    }
  }

  /** The beginning of an answer that is either a call or a text. */
  #begin(): boolean {
    const rest = this.#held.trimStart();
    if (rest === "") return false;
    const { markers } = this.#format;
    if (markers.some((each) => each.startsWith(rest) && each !== rest)) return false;
    const marker = markers.find((each) => rest.startsWith(each));
    if (marker === undefined && !rest.startsWith("{")) this.#mode = "text";
    else {
      this.#held = rest.slice(marker?.length ?? 0);
      this.#mode = "between";
    }
    return true;
  }

  #plain(): boolean {
    const { opening } = this.#format;
    const at = opening === "" ? -1 : this.#held.indexOf(opening);
    if (at >= 0) {
      this.#say(this.#take(at));
      this.#take(opening.length);
      this.#mode = "between";
      return true;
    }
    let kept = Math.min(opening.length - 1, this.#held.length);
    while (kept > 0 && !opening.startsWith(this.#held.slice(-kept))) kept--;
    const told = this.#held.length - Math.max(0, kept);
    if (told === 0) return false;
    this.#say(this.#take(told));
    return true;
  }

  /** Brackets, commas and spaces between calls; what is none of them is a text again. */
  #between(): boolean {
    const { closing } = this.#format;
    this.#take(/^[\s,;[\]]*/.exec(this.#held)![0].length);
    if (this.#held === "") return false;
    if (this.#held.startsWith("{")) this.#mode = "call";
    else if (closing !== "" && this.#held.startsWith(closing)) {
      this.#take(closing.length);
      this.#mode = "text";
    } else if (closing !== "" && closing.startsWith(this.#held)) return false;
    else this.#mode = "text";
    return true;
  }

  #call(): boolean {
    const found = head.exec(this.#held);
    if (found !== null) {
      this.#take(found[0].length);
      this.#tell(this.#count++, "", nameIn(found[1]));
      this.#value = new JsonEnd();
      this.#mode = "arguments";
      return true;
    }
    const { length, isOver } = new JsonEnd().push(this.#held);
    if (!isOver) return false;
    const whole = this.#take(length);
    const call = callIn(whole);
    if (call === undefined) this.#say(whole);
    else this.#tell(this.#count++, call.arguments, call.name);
    this.#mode = "between";
    return true;
  }

  #take(length: number): string {
    const taken = this.#held.slice(0, length);
    this.#held = this.#held.slice(length);
    return taken;
  }

  /** Space around calls is no text. */
  #say(text: string): void {
    this.#text += this.#count > 0 && text.trim() === "" ? "" : text;
  }

  #tell(index: number, piece: string, name?: string): void {
    if (index >= this.#most || (piece === "" && name === undefined)) return;
    this.#calls.push({ index, arguments: piece, ...(name !== undefined && { name }) });
  }
}

function nameIn(quoted: string): string {
  try {
    return JSON.parse(quoted) as string;
  } catch {
    return quoted.slice(1, -1);
  }
}

/** A call whose parts stand in another order; undefined for what is none. */
function callIn(json: string): { name: string; arguments: string } | undefined {
  try {
    const { name, arguments: given, parameters = {} } = JSON.parse(json) as Record<string, unknown>;
    if (typeof name === "string") return { name, arguments: JSON.stringify(given ?? parameters) };
  } catch {
    // A text in braces.
  }
  return undefined;
}
