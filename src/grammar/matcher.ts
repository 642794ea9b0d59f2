import type { Rule } from "./rule.ts";

/** What stands before a text's end: a rule, how much of it is done, and what follows it. */
interface Frame {
  readonly id: number;
  readonly rule: Rule;
  /** Rules of a row that are behind it, or repetitions. */
  readonly done: number;
  /** Null at the end of the text. */
  readonly next: Frame | null;
}

/** A place that a text may have got to: all frames whose byte may come next. */
export interface State {
  /** Each of a rule of one byte. */
  readonly frames: readonly Frame[];
  /** Whether the text may end here. */
  readonly mayEnd: boolean;
  /** By byte, where it leads: null nowhere, undefined not known yet. */
  readonly byByte: (State | null | undefined)[];
  /** What tokens may come next; kept by whoever computes it. */
  allowed: Int32Array | undefined;
}

/** Frames and states that are kept; beyond them all is made anew. */
const framesMost = 1 << 18;
const statesMost = 1 << 14;

/**
 * Follows texts through a rule: a pushdown automaton of all ways at once, whose states are made
 * when a text first gets to them, and found again by the next one.
 */
export class Matcher {
  readonly start: State;
  readonly #ids = new WeakMap<Rule, number>();
  #ruleCount = 0;
  #frameCount = 0;
  #frames = new Map<string, Frame>();
  #states = new Map<string, State>();

  constructor(rule: Rule) {
    this.start = this.#stateOf([this.#frame(rule, 0, null)]);
  }

  /** Where a byte leads from a state; null where it may not come. */
  step(state: State, byte: number): State | null {
    const known = state.byByte[byte];
    if (known !== undefined) return known;
    const nexts: (Frame | null)[] = [];
    for (const { rule, next } of state.frames)
      if (rule.kind === "byte" && rule.allowed[byte] === 1) nexts.push(next);
    const to = nexts.length === 0 ? null : this.#stateOf(nexts);
    state.byByte[byte] = to;
    return to;
  }

  /** Where bytes lead from a state; null where they may not come. */
  run(state: State, bytes: Uint8Array): State | null {
    let at: State | null = state;
    for (let i = 0; i < bytes.length && at !== null; i++) at = this.step(at, bytes[i]);
    return at;
  }

  #stateOf(heads: readonly (Frame | null)[]): State {
    const seen = new Set<Frame | null>();
    const frames: Frame[] = [];
    const open = [...heads];
    while (open.length > 0) {
      const frame = open.pop()!;
      if (seen.has(frame)) continue;
      seen.add(frame);
      if (frame === null) continue;
      if (frame.rule.kind === "byte") frames.push(frame);
      else this.#unfold(frame, open);
    }
    frames.sort((a, b) => a.id - b.id);
    const mayEnd = seen.has(null);
    const key = `${mayEnd ? "end " : ""}${frames.map(({ id }) => id).join(" ")}`;
    let state = this.#states.get(key);
    if (state === undefined) {
      if (this.#states.size === statesMost) this.#states = new Map();
      state = { frames, mayEnd, byByte: new Array(256), allowed: undefined };
      this.#states.set(key, state);
    }
    return state;
  }

  /** Adds what a frame may begin with. */
  #unfold({ rule, done, next }: Frame, open: (Frame | null)[]): void {
    switch (rule.kind) {
      case "all": {
        if (done >= rule.rules.length) open.push(next);
        else {
          const isLast = done + 1 === rule.rules.length;
          const after = isLast ? next : this.#frame(rule, done + 1, next);
          open.push(this.#frame(rule.rules[done], 0, after));
        }
        return;
      }
      case "either":
        for (const each of rule.rules) open.push(this.#frame(each, 0, next));
        return;
      case "times": {
        const { least, most } = rule;
        if (done >= least) open.push(next);
        if (done >= most) return;
        // Without an end the count says only whether enough are there.
        const more = most === Infinity ? Math.min(done + 1, least) : done + 1;
        open.push(this.#frame(rule.rule, 0, this.#frame(rule, more, next)));
        return;
      }
      case "named":
        open.push(this.#frame(rule.rule(), 0, next));
    }
  }

  /** The one frame of these parts, so that frames are compared by what they are. */
  #frame(rule: Rule, done: number, next: Frame | null): Frame {
    const key = `${this.#idOf(rule)} ${done} ${next?.id ?? -1}`;
    let frame = this.#frames.get(key);
    if (frame === undefined) {
      if (this.#frames.size === framesMost) this.#frames = new Map();
      frame = { id: this.#frameCount++, rule, done, next };
      this.#frames.set(key, frame);
    }
    return frame;
  }

  #idOf(rule: Rule): number {
    let id = this.#ids.get(rule);
    if (id === undefined) this.#ids.set(rule, (id = this.#ruleCount++));
    return id;
  }
}
