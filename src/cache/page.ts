import type { Device } from "../device/device.ts";
import type { Memory } from "../device/memory.ts";
import { Owner } from "../device/owner.ts";
import type { Stream } from "../device/stream.ts";
import { CopyParams, CopyPlane, TableParams } from "../ffi/params.gen.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";

const tableParams = new TableParams();

/** Queues table[updates[2i]] = updates[2i + 1] for `count` pairs of int32. */
export function queueTableUpdates(
  device: Device,
  stream: Stream,
  table: number,
  updates: number,
  count: number,
): void {
  tableParams.table = table;
  tableParams.updates = updates;
  tableParams.updateCount = count;
  device.launch(stream, device.kernel("table_update"), tableParams, 1);
}

/** The planes of a page group on the device, so that one kernel moves tokens in all of them. */
export class CopyTable extends Owner {
  readonly #device: Device;
  readonly #planes: CopyPlane[] = [];
  readonly #params = new CopyParams();
  #memory: Memory | undefined;

  constructor(device: Device) {
    super("page copy table");
    this.#device = device;
  }

  /** Adds a plane: `view` [pages, pageSize, heads, dim], `rowBytes` bytes of one head's row. */
  add(view: Tensor, heads: number, rowBytes: number): void {
    const plane = new CopyPlane();
    plane.planeData = view.address;
    plane.planeStridePage = view.strides[0];
    plane.planeStrideToken = view.strides[1];
    plane.planeStrideHead = view.strides[2];
    plane.heads = heads;
    plane.rowBytes = rowBytes;
    plane.elementBytes = dtypeBytes(view.dtype);
    this.#planes.push(plane);
  }

  /**
   * Adds a plane of one int32 for each token, `view` [pages, pageSize, 1, 1], to those that were
   * sent. Errors: OutOfMemoryError, with nothing changed.
   */
  addLater(view: Tensor): void {
    const before = this.#memory;
    this.add(view, 1, 4);
    try {
      this.upload();
    } catch (error) {
      this.#planes.pop();
      throw error;
    }
    before?.[Symbol.dispose]();
  }

  /** Takes back the plane that was added last, which is on the device. */
  takeBack(): void {
    this.#planes.pop();
    this.#params.planeCount = this.#planes.length;
  }

  /** Sends the planes to the device; call after the last `add`. */
  upload(): void {
    const bytes = new Uint8Array(this.#planes.length * CopyPlane.byteLength);
    this.#planes.forEach((plane, i) => bytes.set(plane.view, i * CopyPlane.byteLength));
    const memory = this.#device.alloc(bytes.byteLength, this.label);
    this.#device.upload(memory.address, bytes);
    this.#memory = memory;
    this.#params.planes = memory.address;
    this.#params.planeCount = this.#planes.length;
  }

  /** Queues `count` moves (source token, target token, tokens) at an address of int32 triples. */
  queue(stream: Stream, moves: number, count: number, pageSize: number): void {
    if (count === 0) return;
    const params = this.#params;
    params.moves = moves;
    params.moveCount = count;
    params.pageSize = pageSize;
    this.#device.launch(stream, this.#device.kernel("copy_tokens"), params, this.#planes.length);
  }

  protected override release(): void {
    this.#memory?.[Symbol.dispose]();
  }
}
