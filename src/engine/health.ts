import type { Device } from "../device/device.ts";

/** Looks at a device, and tells once why nothing runs on it any more. */
export class Health {
  readonly #lost = Promise.withResolvers<unknown>();
  #isLost = false;

  constructor(private readonly device: Device) {}

  /** Resolves with the reason when the device or a rank is lost. */
  get lost(): Promise<unknown> {
    return this.#lost.promise;
  }

  /**
   * Whether the device works; where it does not any more, `lost` has resolved.
   * @param reason what failed just now: why the device is lost, if it is
   */
  look(reason?: unknown): "ok" | "lost" | "closed" {
    if (this.device.disposed) return "closed";
    const failure = this.device.failure();
    if (failure !== undefined) this.lose(reason ?? failure);
    return this.#isLost ? "lost" : "ok";
  }

  /** Nothing runs any more, for this reason. */
  lose(reason: unknown): void {
    this.#isLost = true;
    this.#lost.resolve(reason);
  }
}
