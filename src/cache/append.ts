import type { Device } from "../device/device.ts";
import type { Kernel } from "../device/kernel.ts";
import type { Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { AppendParams } from "../ffi/params.gen.ts";
import { dtypeCode, isFloat } from "../tensor/dtype.ts";
import { scaleStrides } from "../tensor/scale.ts";
import { requireTensor, type Tensor } from "../tensor/tensor.ts";

/** The tokens of a launch. */
export interface AppendTokens {
  /** Tokens of the launch, padding included. */
  readonly paddedTokens: number;
  /** Of them, those that sources have rows for. */
  readonly tokenCount: number;
  readonly requestCount: number;
}

/**
 * A page table: int32 [requests, stride], or [entries] with the entries of request r from indptr[r]
 * to indptr[r + 1]. Addresses; no indptr is 0.
 */
export interface AppendTable {
  readonly address: number;
  readonly entries: number;
  readonly stride: number;
  readonly indptr: number;
  readonly requests: number;
}

/** Pages that a token may lie in where no plane was added. */
const anyPage = 0x7fffffff;

/** Rows that sources have: a captured launch is replayed with up to all that it is padded to. */
export function rowsOf(device: Device, step: AppendTokens): number {
  return device.capturing ? step.paddedTokens : step.tokenCount;
}

/**
 * Packs and launches the append kernel of one layer: new rows of up to four planes into their
 * places. A source that was bound once is bound for every later step of no more tokens.
 */
export class Appender {
  protected readonly device: Device;
  readonly #kernel: Kernel;
  readonly #params: AppendParams;
  #step: AppendTokens | undefined;
  /** By plane, the source and the target that are bound; undefined: bind. */
  readonly #sources: (Tensor | undefined)[] = [];
  readonly #targets: (Tensor | undefined)[] = [];

  /** Loads the kernels of pages, so that no step waits for them. Errors: CompileError. */
  constructor(device: Device, pageSize: number, params = new AppendParams()) {
    this.device = device;
    this.#kernel = device.kernel("append");
    this.#params = params;
    params.pageSize = pageSize;
  }

  /** Starts a launch; `tokenRequests` is the address of int32 [paddedTokens], or 0. */
  begin(step: AppendTokens, tokenRequests: number): void {
    this.#step = step;
    this.#params.keyPositions = 0;
    this.#params.planeCount = 0;
    this.#params.pageCount = anyPage;
    this.#params.tokenCount = step.paddedTokens;
    this.#params.tokenRequests = tokenRequests;
  }

  /** Tokens go to slots: int32 [paddedTokens] at an address. */
  bySlot(slotMapping: number): void {
    this.#params.slotMapping = slotMapping;
  }

  /** Tokens go to positions, int32 [paddedTokens] at an address, of their requests in a table. */
  byTable(positions: number, table: AppendTable): void {
    const params = this.#params;
    params.slotMapping = 0;
    params.positions = positions;
    params.pageTable = table.address;
    params.rowIndptr = table.indptr;
    params.requestCount = table.requests;
    params.tableStride = table.stride;
    params.tableEntries = table.entries;
  }

  /**
   * Positions go to `keyPositions`, int32 [pages, pageSize]: `newPositions`, int32 [paddedTokens],
   * or with 0 that each key stands at its place. Addresses.
   */
  withPositions(keyPositions: number, newPositions: number): void {
    this.#params.keyPositions = keyPositions;
    this.#params.newPositions = newPositions;
  }

  /**
   * Adds a plane: `target` [pages, pageSize, heads, dim], `source` [tokens, heads, dim] with as
   * many tokens as the batch, or more; `scale` divides the rows before they are rounded. Errors:
   * OptionError.
   */
  plane(name: string, target: Tensor, source: Tensor, scale: Tensor | undefined): void {
    const params = this.#params;
    const i = params.planeCount;
    const isSame = source === this.#sources[i] && target === this.#targets[i];
    const isBound = isSame && scale === undefined;
    if (!isBound || source.shape[0] < this.#tokens) this.#bind(i, name, target, source, scale);
    target.guard();
    source.guard();
    if (this.device.capturing) {
      this.device.needOnReplay(source);
      if (scale !== undefined) this.device.needOnReplay(scale);
    }
    params.planeCount = i + 1;
    if (target.shape[0] < params.pageCount) params.pageCount = target.shape[0];
  }

  /** Queues the kernel. */
  launch(stream: Stream): void {
    const grid = Math.ceil(this.#params.tokenCount / this.#kernel.itemRows);
    this.device.launch(stream, this.#kernel, this.#params, grid);
  }

  get #tokens(): number {
    return rowsOf(this.device, this.#step!);
  }

  #bind(i: number, name: string, target: Tensor, source: Tensor, scale: Tensor | undefined): void {
    this.#sources[i] = undefined;
    this.#checkSource(name, source, target);
    const [, , heads, dim] = target.shape;
    const params = this.#params;
    params.setPlanesData(i, target.address);
    params.setPlanesStridePage(i, target.strides[0]);
    params.setPlanesStrideToken(i, target.strides[1]);
    params.setPlanesStrideHead(i, target.strides[2]);
    params.setSources(i, source.address);
    params.setSourceStrideToken(i, source.strides[0]);
    params.setSourceStrideHead(i, source.strides[1]);
    params.setHeads(i, heads);
    params.setDims(i, dim);
    params.setSourceDtypes(i, dtypeCode(source.dtype));
    params.setPlaneDtypes(i, dtypeCode(target.dtype));
    const { requestCount: requests } = this.#step!;
    scale?.requireOn(this.device, `${name}Scale`);
    const reach = { heads, pages: target.shape[0], pageTokens: target.shape[1], requests };
    const strides = scaleStrides(`${name}Scale`, scale, reach);
    params.setScalesData(i, strides.address);
    params.setScalesStrideRequest(i, strides.request);
    params.setScalesStrideHead(i, strides.head);
    params.setScalesStridePage(i, strides.page);
    params.setScalesStrideToken(i, strides.token);
    // Scales are checked against the requests of each step.
    if (scale !== undefined) return;
    this.#sources[i] = source;
    this.#targets[i] = target;
  }

  #checkSource(name: string, source: Tensor, target: Tensor): void {
    requireTensor(name, source);
    source.requireOn(this.device, name);
    const { shape, strides, dtype } = source;
    const [, , heads, dim] = target.shape;
    const tokens = this.#tokens;
    const fits = shape.length === 3 && shape[1] === heads && shape[2] === dim;
    if (!fits || shape[0] < tokens || (strides[2] !== 1 && dim > 1)) {
      const allowed = `a tensor [${tokens} or more, ${heads}, ${dim}] with innermost stride 1`;
      throw new OptionError(name, source.label, allowed, "reshape or copy the new tokens.");
    }
    if (dtype === target.dtype || (isFloat(dtype) && isFloat(target.dtype))) return;
    throw new OptionError(name, dtype, `${target.dtype} or a float dtype`, "convert the tensor.");
  }
}
