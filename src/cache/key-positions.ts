import type { Device } from "../device/device.ts";
import { Owner } from "../device/owner.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { CopyTable } from "./page.ts";

/** Positions of the keys of a cache, which move with them: of each page group a tensor. */
export class KeyPositions extends Owner {
  /** By page group, int32 [pages, pageSize]; below 0: the key's place. */
  readonly tensors: Tensor[] = [];

  /**
   * Every key stands at its place at first. `copies`: by page group, the planes that move together.
   * Waits for the device. Errors: OutOfMemoryError, with nothing changed.
   */
  constructor(
    device: Device,
    pages: readonly number[],
    pageSize: number,
    copies: readonly CopyTable[],
  ) {
    super("KV cache positions");
    let added = 0;
    try {
      for (const count of pages)
        this.tensors.push(Tensor.empty(device, [count, pageSize], "i32", this.label));
      for (const tensor of this.tensors) {
        copies[added].addLater(tensor.reshape(pages[added], pageSize, 1, 1));
        added++;
      }
    } catch (error) {
      for (const each of copies.slice(0, added)) each.takeBack();
      this[Symbol.dispose]();
      throw error;
    }
    for (const { address, elements } of this.tensors)
      device.stream.fill(address, 0xff, 4 * elements);
    // Other streams append, too.
    device.stream.wait();
  }

  protected override release(): void {
    for (const tensor of this.tensors) tensor[Symbol.dispose]();
  }
}
