import { FlashbunError } from "../errors.ts";

/** The encoder was closed. */
export class EncoderClosedError extends FlashbunError {
  constructor() {
    super("ENCODER_CLOSED", "the encoder was closed. Fix: keep it open while texts come.");
  }
}

/** The engine was closed while a request ran. */
export class EngineClosedError extends FlashbunError {
  constructor() {
    super("ENGINE_CLOSED", "the engine was closed. Fix: keep it open until requests have ended.");
  }
}
