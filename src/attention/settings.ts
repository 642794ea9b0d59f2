/** What a plan says for all runs of its step, in place of the attention's options. */
import { OptionError } from "../errors.ts";
import { checkOptions } from "../options.ts";
import { type ResolvedOptions, schemas } from "./options.ts";

/** What {@link Attention.plan} takes besides the batch: by default as the options say. */
export interface PlanSettings {
  /** Factor of q.k. */
  scale?: number;
  /** Above 0, of an attention that was created with one. */
  softCap?: number;
  /** Keys before the query's own position that stay visible; -1: all. */
  windowLeft?: number;
}

const { scale, softCap, windowLeft } = schemas;
/** What each setting may be. */
export const planSchemas = { scale, softCap, windowLeft };

/** Whether two plans say the same. */
export function sameSettings(a: Required<PlanSettings>, b: Required<PlanSettings>): boolean {
  return a.scale === b.scale && a.softCap === b.softCap && a.windowLeft === b.windowLeft;
}

/**
 * The settings with every default filled in: the options themselves where nothing is given.
 * `windows`: whether the kernels know windows. Errors: OptionError.
 */
export function settingsOf(
  options: ResolvedOptions,
  windows: boolean,
  given: PlanSettings | undefined,
): Required<PlanSettings> {
  if (given === undefined) return options;
  checkOptions("settings", planSchemas, [], given);
  const {
    scale = options.scale,
    softCap = options.softCap,
    windowLeft = options.windowLeft,
  } = given;
  // Kernels of a GPU are compiled with or without the function.
  if (softCap > 0 !== options.softCap > 0) {
    const isOn = options.softCap > 0;
    const allowed = isOn ? "above 0: the attention was created with one" : "left out, or 0";
    const fix = isOn ? "use an attention without softCap." : "create with a softCap.";
    throw new OptionError("softCap", softCap, allowed, fix);
  }
  if (windowLeft >= 0 && !windows) {
    const fix = "create an attention with { windowLeft }.";
    throw new OptionError("windowLeft", windowLeft, "-1: these kernels know no windows", fix);
  }
  return { scale, softCap, windowLeft };
}
