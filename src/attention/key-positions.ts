/** Positions of keys that are not their places in the sequence. */
import type { Device } from "../device/device.ts";
import { OptionError, PlanError } from "../errors.ts";
import type { AttentionParams } from "../ffi/params.gen.ts";
import type { Batch } from "../kv/batch.ts";
import type { ResolvedOptions } from "./options.ts";
import { denseAddress } from "./tensor-checks.ts";
import type { PlainTensors } from "./tensors.ts";

/** Whether the position of a key decides anything. */
function readsPositions(
  { causal, alibi, rope, variant }: ResolvedOptions,
  windowLeft: number,
): boolean {
  return causal || windowLeft >= 0 || alibi || rope !== undefined || variant !== undefined;
}

/**
 * Errors: OptionError for a batch with positions of its own that these options cannot take, or
 * whose keys have such where the kernels cannot read them.
 */
export function requirePositions(
  options: ResolvedOptions,
  windowLeft: number,
  { customPositions, plainLengths }: Batch,
  kind: Device["kind"],
): void {
  const given = plainLengths !== null && readsPositions(options, windowLeft);
  if (options.deviceLengths && (customPositions || given)) {
    const fix = "leave positions out, or give the lengths with the batch.";
    throw new OptionError("positions", "custom", "not used with deviceLengths", fix);
  }
  if (!given || kind === "cpu" || options.keyPositions) return;
  const fix = "create the attention with { keyPositions: true }.";
  const allowed = "each key's place, as the kernels were compiled for";
  throw new OptionError("positions", "custom", allowed, fix);
}

/**
 * Address of the positions of the run's keys, int32 [pages, pageSize] or [tokens]; 0: their places
 * are. `captured`: the next batches may have what this one has not. Errors: OptionError.
 */
export function keyPositionsOf(
  options: ResolvedOptions,
  windowLeft: number,
  batch: Batch,
  { cache, layer = 0, k, keyPositions }: PlainTensors,
  captured: boolean,
): number {
  const given = batch.plainLengths !== null;
  if (cache !== undefined) {
    if (keyPositions !== undefined) {
      const fix = "remove it: the cache keeps them.";
      throw new OptionError("keyPositions", "given", "left out beside a cache", fix);
    }
    if (!(given || captured) || !readsPositions(options, windowLeft)) return 0;
    return cache.keyPositions(layer)?.address ?? 0;
  }
  if (given !== (keyPositions !== undefined)) {
    const allowed = given ? "given: the batch says keyPositions" : "left out";
    const fix = `${given ? "pass it, or " : ""}create the batch with { keyPositions: ${!given} }.`;
    throw new OptionError("keyPositions", keyPositions?.label, allowed, fix);
  }
  if (keyPositions === undefined) return 0;
  const { contiguous, blockSize } = batch.layout;
  const heads = contiguous ? undefined : blockSize;
  const address = denseAddress("keyPositions", keyPositions, "i32", k!.shape[0], heads);
  return readsPositions(options, windowLeft) ? address : 0;
}

/** Errors: PlanError for a batch whose keys have positions that a captured run does not read. */
export function requireCaptured(
  options: ResolvedOptions,
  { keyPositions, windowLeft }: Pick<AttentionParams, "keyPositions" | "windowLeft">,
  batch: Batch,
): void {
  if (keyPositions !== 0 || batch.plainLengths === null) return;
  if (!readsPositions(options, windowLeft)) return;
  throw new PlanError(
    "the step's keys have positions of their own, and the run was captured without. " +
      "Fix: create the cache with { keyPositions: true }, and capture again.",
  );
}
