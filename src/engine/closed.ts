import { FlashbunError } from "../errors.ts";

/** The engine was closed while a request ran. */
export class EngineClosedError extends FlashbunError {
  constructor() {
    super("ENGINE_CLOSED", "the engine was closed. Fix: keep it open until requests have ended.");
  }
}
