import type { Checkpoint } from "../weights/checkpoint.ts";
import { storedBytes } from "../weights/stored.ts";

/** How far a model's weights are. */
export interface LoadProgress {
  /** Read from its files; of random weights those that were made. */
  readonly bytes: number;
  /** Of its files; absent with random weights. */
  readonly totalBytes?: number;
}

/** Counts what of a checkpoint was read. */
export class LoadCount {
  /** Called whenever a tensor, or a part of a large one, is read or made. */
  onProgress: (() => void) | undefined;
  #bytes = 0;
  readonly #total: number;

  constructor({ tensors }: Checkpoint) {
    this.#total = [...tensors.values()].reduce((sum, stored) => sum + storedBytes(stored), 0);
  }

  get progress(): LoadProgress {
    return { bytes: this.#bytes, totalBytes: this.#total };
  }

  add(bytes: number): void {
    this.#bytes += bytes;
    this.onProgress?.();
  }

  /** What was not read till now is not needed. */
  end(): void {
    this.add(this.#total - this.#bytes);
  }
}
