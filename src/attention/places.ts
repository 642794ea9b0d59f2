/** Options about where keys and values lie: what excludes what. */
import { OptionError } from "../errors.ts";
import type { Batch } from "../kv/batch.ts";
import { type RopeOptions, ropeRange } from "../ops/rope.ts";
import type { HookName } from "../variant/expression.ts";
import { isInput, nodesOf } from "../variant/graph.ts";
import type { Variant } from "../variant/variant.ts";

interface PlaceOptions {
  readonly headDim: number;
  readonly keyTail?: number;
  readonly valuePages?: boolean;
  readonly raggedRows?: boolean;
  readonly keyPositions?: boolean;
  readonly rope?: RopeOptions;
  readonly variant?: Variant;
}

/** Errors: OptionError for options that are not used together. */
export function checkPlaces(options: PlaceOptions): void {
  const { headDim, keyTail = 0, valuePages, raggedRows, keyPositions, rope, variant } = options;
  if (keyTail >= headDim) {
    const fix = "say how many of a key's elements lie in kTail.";
    throw new OptionError("keyTail", keyTail, `below headDim (${headDim})`, fix);
  }
  if (keyTail > 0 && rope !== undefined) {
    const { first, dim } = ropeRange(rope, headDim);
    const head = headDim - keyTail;
    if (first < head && first + dim > head) {
      const allowed = `elements before ${head} or from it on: the others lie in kTail`;
      throw new OptionError("rope", `elements ${first} to ${first + dim}`, allowed, "turn fewer.");
    }
  }
  if (raggedRows && keyTail > 0) {
    const fix = "put prompts into pages first, or keep keys in one tensor.";
    throw new OptionError("raggedRows", true, "false with keyTail", fix);
  }
  if (raggedRows && keyPositions) {
    const fix = "put prompts into pages first, or let keys stand at their places.";
    throw new OptionError("raggedRows", true, "false with keyPositions", fix);
  }
  const hooks = Object.keys(variant?.hooks ?? {}) as HookName[];
  refuseSlots("raggedRows", raggedRows, hooks, variant);
  refuseSlots("valuePages", valuePages, ["value"], variant);
}

/** A slot is a place in the keys' pages. */
function refuseSlots(
  option: string,
  given: boolean | undefined,
  hooks: readonly HookName[],
  variant: Variant | undefined,
): void {
  if (!given) return;
  for (const hook of hooks) {
    const root = variant?.hooks[hook];
    if (root === undefined || !nodesOf([root]).some((node) => isInput(node, "slot"))) continue;
    const allowed = `false: the ${hook} hook of variant ${variant!.name} reads slots`;
    const fix = "use another variant, or pages that keys and values share.";
    throw new OptionError(option, true, allowed, fix);
  }
}

/** Errors: OptionError for a batch with rows that lie in no pages, unless the options say so. */
export function requireRaggedRows({ raggedRows }: { raggedRows: boolean }, batch: Batch): void {
  if (raggedRows || batch.layout.raggedRows !== true) return;
  const fix = "create with { raggedRows: true }.";
  throw new OptionError("raggedRows", false, "true for a batch with raggedStarts", fix);
}
