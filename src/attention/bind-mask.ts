import { OptionError } from "../errors.ts";
import type { AttentionParams } from "../ffi/params.gen.ts";
import type { Batch } from "../kv/batch.ts";
import type { ResolvedOptions } from "./options.ts";
import { denseAddress } from "./tensor-checks.ts";
import type { PlainTensors } from "./tensors.ts";

/** Bytes to spare that packed masks may have even if they are then as many as the pairs. */
const unpackedLeast = 16;

/** Elements that one request's mask takes: bytes of packed bits, or a bool for each pair. */
export function maskElements(
  { mask }: ResolvedOptions,
  { queryIndptr, kvLengths }: Batch,
  request: number,
  isPacked: boolean,
): number {
  const queries = queryIndptr[request + 1] - queryIndptr[request];
  const pairs = queries * (mask === "all" ? kvLengths[request] : queries);
  return isPacked ? Math.ceil(pairs / 8) : pairs;
}

/**
 * Puts masks into the parameters, as long as the batch's requests ask for, with offsets of so many
 * requests. Errors: OptionError.
 */
export function bindMask(
  params: AttentionParams,
  options: ResolvedOptions,
  batch: Batch,
  requests: number,
  { maskBits, maskIndptr }: PlainTensors,
): void {
  if (options.mask === "none") {
    if (maskBits === undefined) return;
    const fix = 'create with { mask: "all" or "tail" }.';
    throw new OptionError("maskBits", maskBits.label, "left out", fix);
  }
  if (maskBits === undefined || maskIndptr === undefined) {
    const allowed = `given: the options say mask "${options.mask}"`;
    const fix = "pass maskBits (bool, or packed as u8) and maskIndptr (i32).";
    throw new OptionError("maskBits", maskBits, allowed, fix);
  }
  const isPacked = maskBits.dtype !== "bool";
  let elements = 0;
  let pairs = 0;
  for (let r = 0; r < batch.requestCount; r++) {
    elements += maskElements(options, batch, r, isPacked);
    pairs += maskElements(options, batch, r, false);
  }
  const { shape } = maskBits;
  // A bool mask made u8, unless room is left on purpose: a graph's is for other steps too.
  const roomy = pairs - elements < unpackedLeast || options.graph !== undefined;
  const isUnpacked = maskBits.elements === pairs && !roomy;
  if (isPacked && maskBits.dtype === "u8" && (shape.length !== 1 || isUnpacked)) {
    const fix = 'pass the bool tensor itself, or pack its bits, 8 to a byte, into a "u8" tensor.';
    throw new OptionError("maskBits", maskBits.label, `packed bits, [${elements}]`, fix);
  }
  params.mask = denseAddress("maskBits", maskBits, isPacked ? "u8" : "bool", elements);
  params.maskElements = maskBits.elements;
  params.maskShift = isPacked ? 3 : 0;
  params.maskIndptr = denseAddress("maskIndptr", maskIndptr, "i32", requests);
}
