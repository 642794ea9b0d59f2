import { AttentionParams, TensorMap } from "../ffi/params.gen.ts";
import { Params } from "../ffi/params.ts";

const mapsBytes = 4 * TensorMap.byteLength;
/** Structs that hold tensor maps are padded to their alignment. */
const mapAlignment = 64;

/** The tensor maps of a kernel class, in the order of kernels/params/attention.h. */
export class AttentionMaps extends Params {
  readonly q: TensorMap;
  readonly k: TensorMap;
  readonly v: TensorMap;
  readonly out: TensorMap;
  /** Of k and v: what differs from layer to layer. */
  readonly planes: Int32Array;

  constructor(memory = new ArrayBuffer(mapsBytes)) {
    super(memory, 0, mapsBytes);
    const bytes = TensorMap.byteLength;
    this.q = new TensorMap(memory, 0);
    this.k = new TensorMap(memory, bytes);
    this.v = new TensorMap(memory, 2 * bytes);
    this.out = new TensorMap(memory, 3 * bytes);
    this.planes = new Int32Array(memory, bytes, (2 * bytes) / 4);
  }
}

/** Packs `struct fb_attention_map_params`: what kernels with tensor maps take. */
export class AttentionMapParams extends Params {
  static readonly byteLength =
    Math.ceil((mapsBytes + AttentionParams.byteLength) / mapAlignment) * mapAlignment;
  readonly maps: AttentionMaps;
  /** What kernels without maps take. */
  readonly attention: AttentionParams;

  constructor() {
    const memory = new ArrayBuffer(AttentionMapParams.byteLength);
    super(memory, 0, memory.byteLength);
    this.maps = new AttentionMaps(memory);
    this.attention = new AttentionParams(memory, mapsBytes);
  }
}
