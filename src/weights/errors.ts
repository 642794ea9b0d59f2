import { FlashbunError } from "../errors.ts";

/** A file of weights or its configuration is missing, damaged, or of a kind that is not read. */
export class CheckpointError extends FlashbunError {
  /**
   * @param path the file
   * @param what what is wrong with it, a clause without a full stop
   * @param fix what to do, a sentence without "Fix:"
   */
  constructor(
    readonly path: string,
    what: string,
    fix: string,
    options?: ErrorOptions,
  ) {
    super("CHECKPOINT", `${path}: ${what}. Fix: ${fix}`, options);
  }
}
