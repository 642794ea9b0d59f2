// Generated from kernels/params by `bun run abi`. Do not edit: change the header.
import { Params } from "./params.ts";

export const FB_F32 = 0;
export const FB_F16 = 1;
export const FB_BF16 = 2;
export const FB_F8E4M3 = 3;
export const FB_F8E5M2 = 4;
export const FB_I8 = 5;
export const FB_I32 = 6;
export const FB_I64 = 7;
export const FB_U8 = 8;
export const FB_BOOL = 9;
export const FB_VARIANT_TENSORS = 8;
export const FB_VARIANT_AXES = 4;
export const FB_VARIANT_SCALARS = 16;
export const FB_MASK_NONE = 0;
export const FB_MASK_ALL = 1;
export const FB_MASK_TAIL = 2;
export const FB_ABI_VERSION = 11;
export const FB_MAP_SCALE = 0;
export const FB_MAP_ADD = 1;
export const FB_MAP_SILU = 2;
export const FB_MAP_GELU = 3;
export const FB_MAP_GELU_TANH = 4;
export const FB_MAP_CAP = 5;
export const FB_ACTIVATION_NONE = 0;
export const FB_ACTIVATION_SILU = 1;
export const FB_ACTIVATION_GELU = 2;
export const FB_ACTIVATION_GELU_TANH = 3;
export const FB_QUANTIZE = 0;
export const FB_DEQUANTIZE = 1;
export const FB_QUANTIZE_GROUPS = 2;
export const FB_BLOCK_SCALES = 3;
export const FB_SAMPLE_NAN = 1;
export const FB_SAMPLE_NO_MASS = 2;
export const FB_SAMPLE_PARAMETER = 4;
export const FB_SAMPLE_PROBABILITIES = 1;
export const FB_SAMPLE_MASKED = 2;
export const FB_STATES = 8;

/** Packs `struct fb_rows_params` (32 bytes). */
export class RowsParams extends Params {
  static readonly byteLength = 32;
  constructor(memory: ArrayBuffer = new ArrayBuffer(32), offset = 0) {
    super(memory, offset, 32);
  }
  set address(value: number) {
    this.write64(0, value);
  }
  get address(): number {
    return this.read64(0);
  }
  set outerStride(value: number) {
    this.write64(2, value);
  }
  get outerStride(): number {
    return this.read64(2);
  }
  set stride(value: number) {
    this.write64(4, value);
  }
  get stride(): number {
    return this.read64(4);
  }
  set inner(value: number) {
    this.i32[6] = value;
  }
  get inner(): number {
    return this.i32[6]!;
  }
  set dtype(value: number) {
    this.i32[7] = value;
  }
  get dtype(): number {
    return this.i32[7]!;
  }
}

/** Packs `struct fb_span_params` (32 bytes). */
export class SpanParams extends Params {
  static readonly byteLength = 32;
  constructor(memory: ArrayBuffer = new ArrayBuffer(32), offset = 0) {
    super(memory, offset, 32);
  }
  set live(value: number) {
    this.write64(0, value);
  }
  get live(): number {
    return this.read64(0);
  }
  set outer(value: number) {
    this.i32[2] = value;
  }
  get outer(): number {
    return this.i32[2]!;
  }
  set inner(value: number) {
    this.i32[3] = value;
  }
  get inner(): number {
    return this.i32[3]!;
  }
  set dim(value: number) {
    this.i32[4] = value;
  }
  get dim(): number {
    return this.i32[4]!;
  }
  set lanes(value: number) {
    this.i32[5] = value;
  }
  get lanes(): number {
    return this.i32[5]!;
  }
  set parts(value: number) {
    this.i32[6] = value;
  }
  get parts(): number {
    return this.i32[6]!;
  }
  set partElements(value: number) {
    this.i32[7] = value;
  }
  get partElements(): number {
    return this.i32[7]!;
  }
}

/** Packs `struct fb_scaling_params` (16 bytes). */
export class ScalingParams extends Params {
  static readonly byteLength = 16;
  constructor(memory: ArrayBuffer = new ArrayBuffer(16), offset = 0) {
    super(memory, offset, 16);
  }
  set scale(value: number) {
    this.write64(0, value);
  }
  get scale(): number {
    return this.read64(0);
  }
  set tokenScales(value: number) {
    this.write64(2, value);
  }
  get tokenScales(): number {
    return this.read64(2);
  }
}

/** Packs `struct fb_argmax_params` (72 bytes). */
export class ArgmaxParams extends Params {
  static readonly byteLength = 72;
  readonly x: RowsParams;
  readonly span: SpanParams;
  constructor(memory: ArrayBuffer = new ArrayBuffer(72), offset = 0) {
    super(memory, offset, 72);
    this.x = new RowsParams(memory, offset + 0);
    this.span = new SpanParams(memory, offset + 32);
  }
  set out(value: number) {
    this.write64(16, value);
  }
  get out(): number {
    return this.read64(16);
  }
}

/** Packs `struct fb_plane` (32 bytes). */
export class Plane extends Params {
  static readonly byteLength = 32;
  constructor(memory: ArrayBuffer = new ArrayBuffer(32), offset = 0) {
    super(memory, offset, 32);
  }
  set data(value: number) {
    this.write64(0, value);
  }
  get data(): number {
    return this.read64(0);
  }
  set stridePage(value: number) {
    this.write64(2, value);
  }
  get stridePage(): number {
    return this.read64(2);
  }
  set strideHead(value: number) {
    this.write64(4, value);
  }
  get strideHead(): number {
    return this.read64(4);
  }
  set strideToken(value: number) {
    this.write64(6, value);
  }
  get strideToken(): number {
    return this.read64(6);
  }
}

/** Packs `struct fb_scale` (40 bytes). */
export class Scale extends Params {
  static readonly byteLength = 40;
  constructor(memory: ArrayBuffer = new ArrayBuffer(40), offset = 0) {
    super(memory, offset, 40);
  }
  set data(value: number) {
    this.write64(0, value);
  }
  get data(): number {
    return this.read64(0);
  }
  set strideRequest(value: number) {
    this.write64(2, value);
  }
  get strideRequest(): number {
    return this.read64(2);
  }
  set strideHead(value: number) {
    this.write64(4, value);
  }
  get strideHead(): number {
    return this.read64(4);
  }
  set stridePage(value: number) {
    this.write64(6, value);
  }
  get stridePage(): number {
    return this.read64(6);
  }
  set strideToken(value: number) {
    this.write64(8, value);
  }
  get strideToken(): number {
    return this.read64(8);
  }
}

/** Packs `struct fb_tensor_map` (128 bytes). */
export class TensorMap extends Params {
  static readonly byteLength = 128;
  constructor(memory: ArrayBuffer = new ArrayBuffer(128), offset = 0) {
    super(memory, offset, 128);
  }
}

/** Packs `struct fb_variant` (400 bytes). */
export class Variant extends Params {
  static readonly byteLength = 400;
  constructor(memory: ArrayBuffer = new ArrayBuffer(400), offset = 0) {
    super(memory, offset, 400);
  }
  set program(value: number) {
    this.write64(0, value);
  }
  get program(): number {
    return this.read64(0);
  }
  setData(index: number, value: number): void {
    this.write64(2 + index * 2, value);
  }
  setSizes(index: number, value: number): void {
    this.i32[18 + index * 1] = value;
  }
  setStrides(index: number, value: number): void {
    this.i32[50 + index * 1] = value;
  }
  setScalars(index: number, value: number): void {
    this.i32[82 + index * 1] = value;
  }
  set programWords(value: number) {
    this.i32[98] = value;
  }
  get programWords(): number {
    return this.i32[98]!;
  }
}

/** Packs `struct fb_attention_record` (64 bytes). */
export class AttentionRecord extends Params {
  static readonly byteLength = 64;
  constructor(memory: ArrayBuffer = new ArrayBuffer(64), offset = 0) {
    super(memory, offset, 64);
  }
  set kvHead(value: number) {
    this.i32[0] = value;
  }
  get kvHead(): number {
    return this.i32[0]!;
  }
  set queryHeadStart(value: number) {
    this.i32[1] = value;
  }
  get queryHeadStart(): number {
    return this.i32[1]!;
  }
  set queryHeadCount(value: number) {
    this.i32[2] = value;
  }
  get queryHeadCount(): number {
    return this.i32[2]!;
  }
  set rowStart(value: number) {
    this.i32[3] = value;
  }
  get rowStart(): number {
    return this.i32[3]!;
  }
  set rowCount(value: number) {
    this.i32[4] = value;
  }
  get rowCount(): number {
    return this.i32[4]!;
  }
  set slot(value: number) {
    this.i32[5] = value;
  }
  get slot(): number {
    return this.i32[5]!;
  }
  set kvStart(value: number) {
    this.i32[6] = value;
  }
  get kvStart(): number {
    return this.i32[6]!;
  }
  set kvEnd(value: number) {
    this.i32[7] = value;
  }
  get kvEnd(): number {
    return this.i32[7]!;
  }
  set fullStart(value: number) {
    this.i32[8] = value;
  }
  get fullStart(): number {
    return this.i32[8]!;
  }
  set fullEnd(value: number) {
    this.i32[9] = value;
  }
  get fullEnd(): number {
    return this.i32[9]!;
  }
  set positionStart(value: number) {
    this.i32[10] = value;
  }
  get positionStart(): number {
    return this.i32[10]!;
  }
  set columnOffset(value: number) {
    this.i32[11] = value;
  }
  get columnOffset(): number {
    return this.i32[11]!;
  }
  set partialRow(value: number) {
    this.i32[12] = value;
  }
  get partialRow(): number {
    return this.i32[12]!;
  }
  set request(value: number) {
    this.i32[13] = value;
  }
  get request(): number {
    return this.i32[13]!;
  }
  set level(value: number) {
    this.i32[14] = value;
  }
  get level(): number {
    return this.i32[14]!;
  }
  set firstMerge(value: number) {
    this.i32[15] = value;
  }
  get firstMerge(): number {
    return this.i32[15]!;
  }
}

/** Packs `struct fb_merge_record` (32 bytes). */
export class MergeRecord extends Params {
  static readonly byteLength = 32;
  constructor(memory: ArrayBuffer = new ArrayBuffer(32), offset = 0) {
    super(memory, offset, 32);
  }
  set queryHeadStart(value: number) {
    this.i32[0] = value;
  }
  get queryHeadStart(): number {
    return this.i32[0]!;
  }
  set queryHeadCount(value: number) {
    this.i32[1] = value;
  }
  get queryHeadCount(): number {
    return this.i32[1]!;
  }
  set rowStart(value: number) {
    this.i32[2] = value;
  }
  get rowStart(): number {
    return this.i32[2]!;
  }
  set rowCount(value: number) {
    this.i32[3] = value;
  }
  get rowCount(): number {
    return this.i32[3]!;
  }
  set partStart(value: number) {
    this.i32[4] = value;
  }
  get partStart(): number {
    return this.i32[4]!;
  }
  set partCount(value: number) {
    this.i32[5] = value;
  }
  get partCount(): number {
    return this.i32[5]!;
  }
}

/** Packs `struct fb_attention_params` (1040 bytes). */
export class AttentionParams extends Params {
  static readonly byteLength = 1040;
  constructor(memory: ArrayBuffer = new ArrayBuffer(1040), offset = 0) {
    super(memory, offset, 1040);
  }
  set kData(value: number) {
    this.write64(0, value);
  }
  get kData(): number {
    return this.read64(0);
  }
  set kStridePage(value: number) {
    this.write64(2, value);
  }
  get kStridePage(): number {
    return this.read64(2);
  }
  set kStrideHead(value: number) {
    this.write64(4, value);
  }
  get kStrideHead(): number {
    return this.read64(4);
  }
  set kStrideToken(value: number) {
    this.write64(6, value);
  }
  get kStrideToken(): number {
    return this.read64(6);
  }
  set vData(value: number) {
    this.write64(8, value);
  }
  get vData(): number {
    return this.read64(8);
  }
  set vStridePage(value: number) {
    this.write64(10, value);
  }
  get vStridePage(): number {
    return this.read64(10);
  }
  set vStrideHead(value: number) {
    this.write64(12, value);
  }
  get vStrideHead(): number {
    return this.read64(12);
  }
  set vStrideToken(value: number) {
    this.write64(14, value);
  }
  get vStrideToken(): number {
    return this.read64(14);
  }
  set kTailData(value: number) {
    this.write64(16, value);
  }
  get kTailData(): number {
    return this.read64(16);
  }
  set kTailStridePage(value: number) {
    this.write64(18, value);
  }
  get kTailStridePage(): number {
    return this.read64(18);
  }
  set kTailStrideHead(value: number) {
    this.write64(20, value);
  }
  get kTailStrideHead(): number {
    return this.read64(20);
  }
  set kTailStrideToken(value: number) {
    this.write64(22, value);
  }
  get kTailStrideToken(): number {
    return this.read64(22);
  }
  set kRaggedData(value: number) {
    this.write64(24, value);
  }
  get kRaggedData(): number {
    return this.read64(24);
  }
  set kRaggedStridePage(value: number) {
    this.write64(26, value);
  }
  get kRaggedStridePage(): number {
    return this.read64(26);
  }
  set kRaggedStrideHead(value: number) {
    this.write64(28, value);
  }
  get kRaggedStrideHead(): number {
    return this.read64(28);
  }
  set kRaggedStrideToken(value: number) {
    this.write64(30, value);
  }
  get kRaggedStrideToken(): number {
    return this.read64(30);
  }
  set vRaggedData(value: number) {
    this.write64(32, value);
  }
  get vRaggedData(): number {
    return this.read64(32);
  }
  set vRaggedStridePage(value: number) {
    this.write64(34, value);
  }
  get vRaggedStridePage(): number {
    return this.read64(34);
  }
  set vRaggedStrideHead(value: number) {
    this.write64(36, value);
  }
  get vRaggedStrideHead(): number {
    return this.read64(36);
  }
  set vRaggedStrideToken(value: number) {
    this.write64(38, value);
  }
  get vRaggedStrideToken(): number {
    return this.read64(38);
  }
  set kScaleData(value: number) {
    this.write64(40, value);
  }
  get kScaleData(): number {
    return this.read64(40);
  }
  set kScaleStrideRequest(value: number) {
    this.write64(42, value);
  }
  get kScaleStrideRequest(): number {
    return this.read64(42);
  }
  set kScaleStrideHead(value: number) {
    this.write64(44, value);
  }
  get kScaleStrideHead(): number {
    return this.read64(44);
  }
  set kScaleStridePage(value: number) {
    this.write64(46, value);
  }
  get kScaleStridePage(): number {
    return this.read64(46);
  }
  set kScaleStrideToken(value: number) {
    this.write64(48, value);
  }
  get kScaleStrideToken(): number {
    return this.read64(48);
  }
  set vScaleData(value: number) {
    this.write64(50, value);
  }
  get vScaleData(): number {
    return this.read64(50);
  }
  set vScaleStrideRequest(value: number) {
    this.write64(52, value);
  }
  get vScaleStrideRequest(): number {
    return this.read64(52);
  }
  set vScaleStrideHead(value: number) {
    this.write64(54, value);
  }
  get vScaleStrideHead(): number {
    return this.read64(54);
  }
  set vScaleStridePage(value: number) {
    this.write64(56, value);
  }
  get vScaleStridePage(): number {
    return this.read64(56);
  }
  set vScaleStrideToken(value: number) {
    this.write64(58, value);
  }
  get vScaleStrideToken(): number {
    return this.read64(58);
  }
  set qScaleData(value: number) {
    this.write64(60, value);
  }
  get qScaleData(): number {
    return this.read64(60);
  }
  set qScaleStrideRequest(value: number) {
    this.write64(62, value);
  }
  get qScaleStrideRequest(): number {
    return this.read64(62);
  }
  set qScaleStrideHead(value: number) {
    this.write64(64, value);
  }
  get qScaleStrideHead(): number {
    return this.read64(64);
  }
  set qScaleStridePage(value: number) {
    this.write64(66, value);
  }
  get qScaleStridePage(): number {
    return this.read64(66);
  }
  set qScaleStrideToken(value: number) {
    this.write64(68, value);
  }
  get qScaleStrideToken(): number {
    return this.read64(68);
  }
  set outScale(value: number) {
    this.write64(70, value);
  }
  get outScale(): number {
    return this.read64(70);
  }
  set q(value: number) {
    this.write64(72, value);
  }
  get q(): number {
    return this.read64(72);
  }
  set out(value: number) {
    this.write64(74, value);
  }
  get out(): number {
    return this.read64(74);
  }
  set lse(value: number) {
    this.write64(76, value);
  }
  get lse(): number {
    return this.read64(76);
  }
  set qStrideToken(value: number) {
    this.write64(78, value);
  }
  get qStrideToken(): number {
    return this.read64(78);
  }
  set qStrideHead(value: number) {
    this.write64(80, value);
  }
  get qStrideHead(): number {
    return this.read64(80);
  }
  set outStrideToken(value: number) {
    this.write64(82, value);
  }
  get outStrideToken(): number {
    return this.read64(82);
  }
  set outStrideHead(value: number) {
    this.write64(84, value);
  }
  get outStrideHead(): number {
    return this.read64(84);
  }
  set pageTable(value: number) {
    this.write64(86, value);
  }
  get pageTable(): number {
    return this.read64(86);
  }
  set valuePageTable(value: number) {
    this.write64(88, value);
  }
  get valuePageTable(): number {
    return this.read64(88);
  }
  set records(value: number) {
    this.write64(90, value);
  }
  get records(): number {
    return this.read64(90);
  }
  set merges(value: number) {
    this.write64(92, value);
  }
  get merges(): number {
    return this.read64(92);
  }
  set parts(value: number) {
    this.write64(94, value);
  }
  get parts(): number {
    return this.read64(94);
  }
  set columns(value: number) {
    this.write64(96, value);
  }
  get columns(): number {
    return this.read64(96);
  }
  set partialOut(value: number) {
    this.write64(98, value);
  }
  get partialOut(): number {
    return this.read64(98);
  }
  set partialLse(value: number) {
    this.write64(100, value);
  }
  get partialLse(): number {
    return this.read64(100);
  }
  set positions(value: number) {
    this.write64(102, value);
  }
  get positions(): number {
    return this.read64(102);
  }
  set keyPositions(value: number) {
    this.write64(104, value);
  }
  get keyPositions(): number {
    return this.read64(104);
  }
  set tokenRequests(value: number) {
    this.write64(106, value);
  }
  get tokenRequests(): number {
    return this.read64(106);
  }
  set queryIndptr(value: number) {
    this.write64(108, value);
  }
  get queryIndptr(): number {
    return this.read64(108);
  }
  set plannedKvLengths(value: number) {
    this.write64(110, value);
  }
  get plannedKvLengths(): number {
    return this.read64(110);
  }
  set kvLengths(value: number) {
    this.write64(112, value);
  }
  get kvLengths(): number {
    return this.read64(112);
  }
  set queryLengths(value: number) {
    this.write64(114, value);
  }
  get queryLengths(): number {
    return this.read64(114);
  }
  set mask(value: number) {
    this.write64(116, value);
  }
  get mask(): number {
    return this.read64(116);
  }
  set maskIndptr(value: number) {
    this.write64(118, value);
  }
  get maskIndptr(): number {
    return this.read64(118);
  }
  set maskElements(value: number) {
    this.write64(120, value);
  }
  get maskElements(): number {
    return this.read64(120);
  }
  set alibiSlopes(value: number) {
    this.write64(122, value);
  }
  get alibiSlopes(): number {
    return this.read64(122);
  }
  set sinks(value: number) {
    this.write64(124, value);
  }
  get sinks(): number {
    return this.read64(124);
  }
  set ropeRates(value: number) {
    this.write64(126, value);
  }
  get ropeRates(): number {
    return this.read64(126);
  }
  set counters(value: number) {
    this.write64(128, value);
  }
  get counters(): number {
    return this.read64(128);
  }
  set variantProgram(value: number) {
    this.write64(130, value);
  }
  get variantProgram(): number {
    return this.read64(130);
  }
  setVariantData(index: number, value: number): void {
    this.write64(132 + index * 2, value);
  }
  setVariantSizes(index: number, value: number): void {
    this.i32[148 + index * 1] = value;
  }
  setVariantStrides(index: number, value: number): void {
    this.i32[180 + index * 1] = value;
  }
  setVariantScalars(index: number, value: number): void {
    this.i32[212 + index * 1] = value;
  }
  set variantProgramWords(value: number) {
    this.i32[228] = value;
  }
  get variantProgramWords(): number {
    return this.i32[228]!;
  }
  set tableStride(value: number) {
    this.i32[230] = value;
  }
  get tableStride(): number {
    return this.i32[230]!;
  }
  set pageSize(value: number) {
    this.i32[231] = value;
  }
  get pageSize(): number {
    return this.i32[231]!;
  }
  set contiguous(value: number) {
    this.i32[232] = value;
  }
  get contiguous(): number {
    return this.i32[232]!;
  }
  set queryHeads(value: number) {
    this.i32[233] = value;
  }
  get queryHeads(): number {
    return this.i32[233]!;
  }
  set kvHeads(value: number) {
    this.i32[234] = value;
  }
  get kvHeads(): number {
    return this.i32[234]!;
  }
  set keyDim(value: number) {
    this.i32[235] = value;
  }
  get keyDim(): number {
    return this.i32[235]!;
  }
  set keyTail(value: number) {
    this.i32[236] = value;
  }
  get keyTail(): number {
    return this.i32[236]!;
  }
  set valueDim(value: number) {
    this.i32[237] = value;
  }
  get valueDim(): number {
    return this.i32[237]!;
  }
  set qDtype(value: number) {
    this.i32[238] = value;
  }
  get qDtype(): number {
    return this.i32[238]!;
  }
  set kvDtype(value: number) {
    this.i32[239] = value;
  }
  get kvDtype(): number {
    return this.i32[239]!;
  }
  set outDtype(value: number) {
    this.i32[240] = value;
  }
  get outDtype(): number {
    return this.i32[240]!;
  }
  set causal(value: number) {
    this.i32[241] = value;
  }
  get causal(): number {
    return this.i32[241]!;
  }
  set windowLeft(value: number) {
    this.i32[242] = value;
  }
  get windowLeft(): number {
    return this.i32[242]!;
  }
  set maskMode(value: number) {
    this.i32[243] = value;
  }
  get maskMode(): number {
    return this.i32[243]!;
  }
  set maskShift(value: number) {
    this.i32[244] = value;
  }
  get maskShift(): number {
    return this.i32[244]!;
  }
  set pageCount(value: number) {
    this.i32[245] = value;
  }
  get pageCount(): number {
    return this.i32[245]!;
  }
  set valuePageCount(value: number) {
    this.i32[246] = value;
  }
  get valuePageCount(): number {
    return this.i32[246]!;
  }
  set ropeDim(value: number) {
    this.i32[247] = value;
  }
  get ropeDim(): number {
    return this.i32[247]!;
  }
  set ropeInterleaved(value: number) {
    this.i32[248] = value;
  }
  get ropeInterleaved(): number {
    return this.i32[248]!;
  }
  set ropeFirst(value: number) {
    this.i32[249] = value;
  }
  get ropeFirst(): number {
    return this.i32[249]!;
  }
  set ropeFactor(value: number) {
    this.f32[250] = value;
  }
  get ropeFactor(): number {
    return this.f32[250]!;
  }
  set finalize(value: number) {
    this.i32[251] = value;
  }
  get finalize(): number {
    return this.i32[251]!;
  }
  set recordCount(value: number) {
    this.i32[252] = value;
  }
  get recordCount(): number {
    return this.i32[252]!;
  }
  set mergeCount(value: number) {
    this.i32[253] = value;
  }
  get mergeCount(): number {
    return this.i32[253]!;
  }
  set scale(value: number) {
    this.f32[254] = value;
  }
  get scale(): number {
    return this.f32[254]!;
  }
  set softCap(value: number) {
    this.f32[255] = value;
  }
  get softCap(): number {
    return this.f32[255]!;
  }
  set lseFactor(value: number) {
    this.f32[256] = value;
  }
  get lseFactor(): number {
    return this.f32[256]!;
  }
  set pagesSettled(value: number) {
    this.i32[257] = value;
  }
  get pagesSettled(): number {
    return this.i32[257]!;
  }
  set beside(value: number) {
    this.i32[258] = value;
  }
  get beside(): number {
    return this.i32[258]!;
  }
}

/** Packs `struct fb_attention_map_params` (1600 bytes). */
export class AttentionMapParams extends Params {
  static readonly byteLength = 1600;
  readonly q: TensorMap;
  readonly k: TensorMap;
  readonly v: TensorMap;
  readonly out: TensorMap;
  readonly attention: AttentionParams;
  constructor(memory: ArrayBuffer = new ArrayBuffer(1600), offset = 0) {
    super(memory, offset, 1600);
    this.q = new TensorMap(memory, offset + 0);
    this.k = new TensorMap(memory, offset + 128);
    this.v = new TensorMap(memory, offset + 256);
    this.out = new TensorMap(memory, offset + 384);
    this.attention = new AttentionParams(memory, offset + 512);
  }
}

/** Packs `struct fb_bits_params` (48 bytes). */
export class BitsParams extends Params {
  static readonly byteLength = 48;
  constructor(memory: ArrayBuffer = new ArrayBuffer(48), offset = 0) {
    super(memory, offset, 48);
  }
  set source(value: number) {
    this.write64(0, value);
  }
  get source(): number {
    return this.read64(0);
  }
  set target(value: number) {
    this.write64(2, value);
  }
  get target(): number {
    return this.read64(2);
  }
  set boolIndptr(value: number) {
    this.write64(4, value);
  }
  get boolIndptr(): number {
    return this.read64(4);
  }
  set byteIndptr(value: number) {
    this.write64(6, value);
  }
  get byteIndptr(): number {
    return this.read64(6);
  }
  set byteCount(value: number) {
    this.i32[8] = value;
  }
  get byteCount(): number {
    return this.i32[8]!;
  }
  set segmentCount(value: number) {
    this.i32[9] = value;
  }
  get segmentCount(): number {
    return this.i32[9]!;
  }
  set highestFirst(value: number) {
    this.i32[10] = value;
  }
  get highestFirst(): number {
    return this.i32[10]!;
  }
}

/** Packs `struct fb_contents_params` (1072 bytes). */
export class ContentsParams extends Params {
  static readonly byteLength = 1072;
  readonly attention: AttentionParams;
  constructor(memory: ArrayBuffer = new ArrayBuffer(1072), offset = 0) {
    super(memory, offset, 1072);
    this.attention = new AttentionParams(memory, offset + 32);
  }
  set report(value: number) {
    this.write64(0, value);
  }
  get report(): number {
    return this.read64(0);
  }
  set pagesCopy(value: number) {
    this.write64(2, value);
  }
  get pagesCopy(): number {
    return this.read64(2);
  }
  set masksCopy(value: number) {
    this.write64(4, value);
  }
  get masksCopy(): number {
    return this.read64(4);
  }
  set pagesEntries(value: number) {
    this.i32[6] = value;
  }
  get pagesEntries(): number {
    return this.i32[6]!;
  }
  set masksEntries(value: number) {
    this.i32[7] = value;
  }
  get masksEntries(): number {
    return this.i32[7]!;
  }
}

/** Packs `struct fb_device_properties` (144 bytes). */
export class DeviceProperties extends Params {
  static readonly byteLength = 144;
  constructor(memory: ArrayBuffer = new ArrayBuffer(144), offset = 0) {
    super(memory, offset, 144);
  }
  set totalBytes(value: number) {
    this.write64(0, value);
  }
  get totalBytes(): number {
    return this.read64(0);
  }
  set poolBytes(value: number) {
    this.write64(2, value);
  }
  get poolBytes(): number {
    return this.read64(2);
  }
  set physicalBytes(value: number) {
    this.write64(4, value);
  }
  get physicalBytes(): number {
    return this.read64(4);
  }
  set lastLevelCacheBytes(value: number) {
    this.write64(6, value);
  }
  get lastLevelCacheBytes(): number {
    return this.read64(6);
  }
  set processors(value: number) {
    this.i32[8] = value;
  }
  get processors(): number {
    return this.i32[8]!;
  }
  set level(value: number) {
    this.i32[9] = value;
  }
  get level(): number {
    return this.i32[9]!;
  }
  set frozen(value: number) {
    this.i32[10] = value;
  }
  get frozen(): number {
    return this.i32[10]!;
  }
  set notifyFd(value: number) {
    this.i32[11] = value;
  }
  get notifyFd(): number {
    return this.i32[11]!;
  }
  set computeMajor(value: number) {
    this.i32[12] = value;
  }
  get computeMajor(): number {
    return this.i32[12]!;
  }
  set computeMinor(value: number) {
    this.i32[13] = value;
  }
  get computeMinor(): number {
    return this.i32[13]!;
  }
  set sharedBytesPerBlock(value: number) {
    this.i32[14] = value;
  }
  get sharedBytesPerBlock(): number {
    return this.i32[14]!;
  }
  set sharedBytesPerProcessor(value: number) {
    this.i32[15] = value;
  }
  get sharedBytesPerProcessor(): number {
    return this.i32[15]!;
  }
  set registersPerProcessor(value: number) {
    this.i32[16] = value;
  }
  get registersPerProcessor(): number {
    return this.i32[16]!;
  }
  set threadsPerProcessor(value: number) {
    this.i32[17] = value;
  }
  get threadsPerProcessor(): number {
    return this.i32[17]!;
  }
  set emulated(value: number) {
    this.i32[18] = value;
  }
  get emulated(): number {
    return this.i32[18]!;
  }
  set driverVersion(value: number) {
    this.i32[19] = value;
  }
  get driverVersion(): number {
    return this.i32[19]!;
  }
  get name(): string {
    return this.textAt(80, 64);
  }
}

/** Packs `struct fb_driver_properties` (16 bytes). */
export class DriverProperties extends Params {
  static readonly byteLength = 16;
  constructor(memory: ArrayBuffer = new ArrayBuffer(16), offset = 0) {
    super(memory, offset, 16);
  }
  set version(value: number) {
    this.i32[0] = value;
  }
  get version(): number {
    return this.i32[0]!;
  }
  set deviceCount(value: number) {
    this.i32[1] = value;
  }
  get deviceCount(): number {
    return this.i32[1]!;
  }
  set emulated(value: number) {
    this.i32[2] = value;
  }
  get emulated(): number {
    return this.i32[2]!;
  }
}

/** Packs `struct fb_kernel_traits` (24 bytes). */
export class KernelTraits extends Params {
  static readonly byteLength = 24;
  constructor(memory: ArrayBuffer = new ArrayBuffer(24), offset = 0) {
    super(memory, offset, 24);
  }
  set threads(value: number) {
    this.i32[0] = value;
  }
  get threads(): number {
    return this.i32[0]!;
  }
  set sharedBytes(value: number) {
    this.i32[1] = value;
  }
  get sharedBytes(): number {
    return this.i32[1]!;
  }
  set cluster(value: number) {
    this.i32[2] = value;
  }
  get cluster(): number {
    return this.i32[2]!;
  }
  set persistent(value: number) {
    this.i32[3] = value;
  }
  get persistent(): number {
    return this.i32[3]!;
  }
  set programmatic(value: number) {
    this.i32[4] = value;
  }
  get programmatic(): number {
    return this.i32[4]!;
  }
  set itemRows(value: number) {
    this.i32[5] = value;
  }
  get itemRows(): number {
    return this.i32[5]!;
  }
}

/** Packs `struct fb_kernel_facts` (24 bytes). */
export class KernelFacts extends Params {
  static readonly byteLength = 24;
  constructor(memory: ArrayBuffer = new ArrayBuffer(24), offset = 0) {
    super(memory, offset, 24);
  }
  set paramsBytes(value: number) {
    this.i32[0] = value;
  }
  get paramsBytes(): number {
    return this.i32[0]!;
  }
  set itemRows(value: number) {
    this.i32[1] = value;
  }
  get itemRows(): number {
    return this.i32[1]!;
  }
  set blocksPerProcessor(value: number) {
    this.i32[2] = value;
  }
  get blocksPerProcessor(): number {
    return this.i32[2]!;
  }
  set registers(value: number) {
    this.i32[3] = value;
  }
  get registers(): number {
    return this.i32[3]!;
  }
  set localBytes(value: number) {
    this.i32[4] = value;
  }
  get localBytes(): number {
    return this.i32[4]!;
  }
  set staticSharedBytes(value: number) {
    this.i32[5] = value;
  }
  get staticSharedBytes(): number {
    return this.i32[5]!;
  }
}

/** Packs `struct fb_failure` (600 bytes). */
export class Failure extends Params {
  static readonly byteLength = 600;
  constructor(memory: ArrayBuffer = new ArrayBuffer(600), offset = 0) {
    super(memory, offset, 600);
  }
  set askedBytes(value: number) {
    this.write64(0, value);
  }
  get askedBytes(): number {
    return this.read64(0);
  }
  set freeBytes(value: number) {
    this.write64(2, value);
  }
  get freeBytes(): number {
    return this.read64(2);
  }
  set status(value: number) {
    this.i32[4] = value;
  }
  get status(): number {
    return this.i32[4]!;
  }
  set cudaResult(value: number) {
    this.i32[5] = value;
  }
  get cudaResult(): number {
    return this.i32[5]!;
  }
  get driverName(): string {
    return this.textAt(24, 64);
  }
  get text(): string {
    return this.textAt(88, 512);
  }
}

/** Packs `struct fb_tensor_map_spec` (120 bytes). */
export class TensorMapSpec extends Params {
  static readonly byteLength = 120;
  constructor(memory: ArrayBuffer = new ArrayBuffer(120), offset = 0) {
    super(memory, offset, 120);
  }
  set address(value: number) {
    this.write64(0, value);
  }
  get address(): number {
    return this.read64(0);
  }
  setExtents(index: number, value: number): void {
    this.write64(2 + index * 2, value);
  }
  setStrides(index: number, value: number): void {
    this.write64(12 + index * 2, value);
  }
  setBox(index: number, value: number): void {
    this.i32[20 + index * 1] = value;
  }
  set rank(value: number) {
    this.i32[25] = value;
  }
  get rank(): number {
    return this.i32[25]!;
  }
  set dtype(value: number) {
    this.i32[26] = value;
  }
  get dtype(): number {
    return this.i32[26]!;
  }
  set swizzleBytes(value: number) {
    this.i32[27] = value;
  }
  get swizzleBytes(): number {
    return this.i32[27]!;
  }
}

/** Packs `struct fb_gather_params` (40 bytes). */
export class GatherParams extends Params {
  static readonly byteLength = 40;
  constructor(memory: ArrayBuffer = new ArrayBuffer(40), offset = 0) {
    super(memory, offset, 40);
  }
  set source(value: number) {
    this.write64(0, value);
  }
  get source(): number {
    return this.read64(0);
  }
  set indices(value: number) {
    this.write64(2, value);
  }
  get indices(): number {
    return this.read64(2);
  }
  set out(value: number) {
    this.write64(4, value);
  }
  get out(): number {
    return this.read64(4);
  }
  set rowBytes(value: number) {
    this.write64(6, value);
  }
  get rowBytes(): number {
    return this.read64(6);
  }
  set rowCount(value: number) {
    this.i32[8] = value;
  }
  get rowCount(): number {
    return this.i32[8]!;
  }
}

/** Packs `struct fb_map_params` (176 bytes). */
export class MapParams extends Params {
  static readonly byteLength = 176;
  readonly a: RowsParams;
  readonly b: RowsParams;
  readonly out: RowsParams;
  readonly span: SpanParams;
  readonly scaling: ScalingParams;
  constructor(memory: ArrayBuffer = new ArrayBuffer(176), offset = 0) {
    super(memory, offset, 176);
    this.a = new RowsParams(memory, offset + 0);
    this.b = new RowsParams(memory, offset + 32);
    this.out = new RowsParams(memory, offset + 64);
    this.span = new SpanParams(memory, offset + 96);
    this.scaling = new ScalingParams(memory, offset + 128);
  }
  set sources(value: number) {
    this.write64(36, value);
  }
  get sources(): number {
    return this.read64(36);
  }
  set targets(value: number) {
    this.write64(38, value);
  }
  get targets(): number {
    return this.read64(38);
  }
  set sourceRows(value: number) {
    this.i32[40] = value;
  }
  get sourceRows(): number {
    return this.i32[40]!;
  }
  set targetRows(value: number) {
    this.i32[41] = value;
  }
  get targetRows(): number {
    return this.i32[41]!;
  }
  set operation(value: number) {
    this.i32[42] = value;
  }
  get operation(): number {
    return this.i32[42]!;
  }
  set factor(value: number) {
    this.f32[43] = value;
  }
  get factor(): number {
    return this.f32[43]!;
  }
}

/** Packs `struct fb_matmul_params` (184 bytes). */
export class MatmulParams extends Params {
  static readonly byteLength = 184;
  constructor(memory: ArrayBuffer = new ArrayBuffer(184), offset = 0) {
    super(memory, offset, 184);
  }
  set x(value: number) {
    this.write64(0, value);
  }
  get x(): number {
    return this.read64(0);
  }
  set weight(value: number) {
    this.write64(2, value);
  }
  get weight(): number {
    return this.read64(2);
  }
  set scales(value: number) {
    this.write64(4, value);
  }
  get scales(): number {
    return this.read64(4);
  }
  set minimums(value: number) {
    this.write64(6, value);
  }
  get minimums(): number {
    return this.read64(6);
  }
  set xScales(value: number) {
    this.write64(8, value);
  }
  get xScales(): number {
    return this.read64(8);
  }
  set bias(value: number) {
    this.write64(10, value);
  }
  get bias(): number {
    return this.read64(10);
  }
  set residual(value: number) {
    this.write64(12, value);
  }
  get residual(): number {
    return this.read64(12);
  }
  set out(value: number) {
    this.write64(14, value);
  }
  get out(): number {
    return this.read64(14);
  }
  set starts(value: number) {
    this.write64(16, value);
  }
  get starts(): number {
    return this.read64(16);
  }
  set rows(value: number) {
    this.write64(18, value);
  }
  get rows(): number {
    return this.read64(18);
  }
  set xStride(value: number) {
    this.write64(20, value);
  }
  get xStride(): number {
    return this.read64(20);
  }
  set weightStride(value: number) {
    this.write64(22, value);
  }
  get weightStride(): number {
    return this.read64(22);
  }
  set scaleStride(value: number) {
    this.write64(24, value);
  }
  get scaleStride(): number {
    return this.read64(24);
  }
  set residualStride(value: number) {
    this.write64(26, value);
  }
  get residualStride(): number {
    return this.read64(26);
  }
  set outStride(value: number) {
    this.write64(28, value);
  }
  get outStride(): number {
    return this.read64(28);
  }
  set rowCount(value: number) {
    this.i32[30] = value;
  }
  get rowCount(): number {
    return this.i32[30]!;
  }
  set outputs(value: number) {
    this.i32[31] = value;
  }
  get outputs(): number {
    return this.i32[31]!;
  }
  set inputs(value: number) {
    this.i32[32] = value;
  }
  get inputs(): number {
    return this.i32[32]!;
  }
  set scaleRows(value: number) {
    this.i32[33] = value;
  }
  get scaleRows(): number {
    return this.i32[33]!;
  }
  set scaleInputs(value: number) {
    this.i32[34] = value;
  }
  get scaleInputs(): number {
    return this.i32[34]!;
  }
  set xScaleStride(value: number) {
    this.i32[35] = value;
  }
  get xScaleStride(): number {
    return this.i32[35]!;
  }
  set xScaleInputs(value: number) {
    this.i32[36] = value;
  }
  get xScaleInputs(): number {
    return this.i32[36]!;
  }
  set xDtype(value: number) {
    this.i32[37] = value;
  }
  get xDtype(): number {
    return this.i32[37]!;
  }
  set weightDtype(value: number) {
    this.i32[38] = value;
  }
  get weightDtype(): number {
    return this.i32[38]!;
  }
  set biasDtype(value: number) {
    this.i32[39] = value;
  }
  get biasDtype(): number {
    return this.i32[39]!;
  }
  set residualDtype(value: number) {
    this.i32[40] = value;
  }
  get residualDtype(): number {
    return this.i32[40]!;
  }
  set outDtype(value: number) {
    this.i32[41] = value;
  }
  get outDtype(): number {
    return this.i32[41]!;
  }
  set activation(value: number) {
    this.i32[42] = value;
  }
  get activation(): number {
    return this.i32[42]!;
  }
  set gated(value: number) {
    this.i32[43] = value;
  }
  get gated(): number {
    return this.i32[43]!;
  }
  set experts(value: number) {
    this.i32[44] = value;
  }
  get experts(): number {
    return this.i32[44]!;
  }
  set xRowCount(value: number) {
    this.i32[45] = value;
  }
  get xRowCount(): number {
    return this.i32[45]!;
  }
}

/** Packs `struct fb_matmul_map_params` (448 bytes). */
export class MatmulMapParams extends Params {
  static readonly byteLength = 448;
  readonly x: TensorMap;
  readonly weight: TensorMap;
  readonly product: MatmulParams;
  constructor(memory: ArrayBuffer = new ArrayBuffer(448), offset = 0) {
    super(memory, offset, 448);
    this.x = new TensorMap(memory, offset + 0);
    this.weight = new TensorMap(memory, offset + 128);
    this.product = new MatmulParams(memory, offset + 256);
  }
  set settled(value: number) {
    this.i32[110] = value;
  }
  get settled(): number {
    return this.i32[110]!;
  }
}

/** Packs `struct fb_route_params` (112 bytes). */
export class RouteParams extends Params {
  static readonly byteLength = 112;
  constructor(memory: ArrayBuffer = new ArrayBuffer(112), offset = 0) {
    super(memory, offset, 112);
  }
  set logits(value: number) {
    this.write64(0, value);
  }
  get logits(): number {
    return this.read64(0);
  }
  set bias(value: number) {
    this.write64(2, value);
  }
  get bias(): number {
    return this.read64(2);
  }
  set weights(value: number) {
    this.write64(4, value);
  }
  get weights(): number {
    return this.read64(4);
  }
  set experts(value: number) {
    this.write64(6, value);
  }
  get experts(): number {
    return this.read64(6);
  }
  set starts(value: number) {
    this.write64(8, value);
  }
  get starts(): number {
    return this.read64(8);
  }
  set rows(value: number) {
    this.write64(10, value);
  }
  get rows(): number {
    return this.read64(10);
  }
  set places(value: number) {
    this.write64(12, value);
  }
  get places(): number {
    return this.read64(12);
  }
  set ticket(value: number) {
    this.write64(14, value);
  }
  get ticket(): number {
    return this.read64(14);
  }
  set logitsStride(value: number) {
    this.write64(16, value);
  }
  get logitsStride(): number {
    return this.read64(16);
  }
  set tokenCount(value: number) {
    this.i32[18] = value;
  }
  get tokenCount(): number {
    return this.i32[18]!;
  }
  set expertCount(value: number) {
    this.i32[19] = value;
  }
  get expertCount(): number {
    return this.i32[19]!;
  }
  set topK(value: number) {
    this.i32[20] = value;
  }
  get topK(): number {
    return this.i32[20]!;
  }
  set dtype(value: number) {
    this.i32[21] = value;
  }
  get dtype(): number {
    return this.i32[21]!;
  }
  set sigmoid(value: number) {
    this.i32[22] = value;
  }
  get sigmoid(): number {
    return this.i32[22]!;
  }
  set renormalize(value: number) {
    this.i32[23] = value;
  }
  get renormalize(): number {
    return this.i32[23]!;
  }
  set scale(value: number) {
    this.f32[24] = value;
  }
  get scale(): number {
    return this.f32[24]!;
  }
  set groupCount(value: number) {
    this.i32[25] = value;
  }
  get groupCount(): number {
    return this.i32[25]!;
  }
  set groupsKept(value: number) {
    this.i32[26] = value;
  }
  get groupsKept(): number {
    return this.i32[26]!;
  }
  set groupBest(value: number) {
    this.i32[27] = value;
  }
  get groupBest(): number {
    return this.i32[27]!;
  }
}

/** Packs `struct fb_combine_params` (96 bytes). */
export class CombineParams extends Params {
  static readonly byteLength = 96;
  constructor(memory: ArrayBuffer = new ArrayBuffer(96), offset = 0) {
    super(memory, offset, 96);
  }
  set y(value: number) {
    this.write64(0, value);
  }
  get y(): number {
    return this.read64(0);
  }
  set weights(value: number) {
    this.write64(2, value);
  }
  get weights(): number {
    return this.read64(2);
  }
  set places(value: number) {
    this.write64(4, value);
  }
  get places(): number {
    return this.read64(4);
  }
  set residual(value: number) {
    this.write64(6, value);
  }
  get residual(): number {
    return this.read64(6);
  }
  set out(value: number) {
    this.write64(8, value);
  }
  get out(): number {
    return this.read64(8);
  }
  set yStride(value: number) {
    this.write64(10, value);
  }
  get yStride(): number {
    return this.read64(10);
  }
  set residualStride(value: number) {
    this.write64(12, value);
  }
  get residualStride(): number {
    return this.read64(12);
  }
  set outStride(value: number) {
    this.write64(14, value);
  }
  get outStride(): number {
    return this.read64(14);
  }
  set tokenCount(value: number) {
    this.i32[16] = value;
  }
  get tokenCount(): number {
    return this.i32[16]!;
  }
  set entryCount(value: number) {
    this.i32[17] = value;
  }
  get entryCount(): number {
    return this.i32[17]!;
  }
  set topK(value: number) {
    this.i32[18] = value;
  }
  get topK(): number {
    return this.i32[18]!;
  }
  set dim(value: number) {
    this.i32[19] = value;
  }
  get dim(): number {
    return this.i32[19]!;
  }
  set yDtype(value: number) {
    this.i32[20] = value;
  }
  get yDtype(): number {
    return this.i32[20]!;
  }
  set residualDtype(value: number) {
    this.i32[21] = value;
  }
  get residualDtype(): number {
    return this.i32[21]!;
  }
  set outDtype(value: number) {
    this.i32[22] = value;
  }
  get outDtype(): number {
    return this.i32[22]!;
  }
}

/** Packs `struct fb_norm_params` (176 bytes). */
export class NormParams extends Params {
  static readonly byteLength = 176;
  readonly x: RowsParams;
  readonly residual: RowsParams;
  readonly out: RowsParams;
  readonly span: SpanParams;
  readonly scaling: ScalingParams;
  constructor(memory: ArrayBuffer = new ArrayBuffer(176), offset = 0) {
    super(memory, offset, 176);
    this.x = new RowsParams(memory, offset + 0);
    this.residual = new RowsParams(memory, offset + 32);
    this.out = new RowsParams(memory, offset + 64);
    this.span = new SpanParams(memory, offset + 96);
    this.scaling = new ScalingParams(memory, offset + 128);
  }
  set weight(value: number) {
    this.write64(36, value);
  }
  get weight(): number {
    return this.read64(36);
  }
  set bias(value: number) {
    this.write64(38, value);
  }
  get bias(): number {
    return this.read64(38);
  }
  set weightDtype(value: number) {
    this.i32[40] = value;
  }
  get weightDtype(): number {
    return this.i32[40]!;
  }
  set weightOffset(value: number) {
    this.f32[41] = value;
  }
  get weightOffset(): number {
    return this.f32[41]!;
  }
  set eps(value: number) {
    this.f32[42] = value;
  }
  get eps(): number {
    return this.f32[42]!;
  }
  set centered(value: number) {
    this.i32[43] = value;
  }
  get centered(): number {
    return this.i32[43]!;
  }
}

/** Packs `struct fb_append_params` (536 bytes). */
export class AppendParams extends Params {
  static readonly byteLength = 536;
  constructor(memory: ArrayBuffer = new ArrayBuffer(536), offset = 0) {
    super(memory, offset, 536);
  }
  setPlanesData(index: number, value: number): void {
    this.write64(0 + index * 8, value);
  }
  setPlanesStridePage(index: number, value: number): void {
    this.write64(2 + index * 8, value);
  }
  setPlanesStrideHead(index: number, value: number): void {
    this.write64(4 + index * 8, value);
  }
  setPlanesStrideToken(index: number, value: number): void {
    this.write64(6 + index * 8, value);
  }
  setSources(index: number, value: number): void {
    this.write64(32 + index * 2, value);
  }
  setSourceStrideToken(index: number, value: number): void {
    this.write64(40 + index * 2, value);
  }
  setSourceStrideHead(index: number, value: number): void {
    this.write64(48 + index * 2, value);
  }
  setHeads(index: number, value: number): void {
    this.i32[56 + index * 1] = value;
  }
  setDims(index: number, value: number): void {
    this.i32[60 + index * 1] = value;
  }
  setSourceDtypes(index: number, value: number): void {
    this.i32[64 + index * 1] = value;
  }
  setPlaneDtypes(index: number, value: number): void {
    this.i32[68 + index * 1] = value;
  }
  setScalesData(index: number, value: number): void {
    this.write64(72 + index * 10, value);
  }
  setScalesStrideRequest(index: number, value: number): void {
    this.write64(74 + index * 10, value);
  }
  setScalesStrideHead(index: number, value: number): void {
    this.write64(76 + index * 10, value);
  }
  setScalesStridePage(index: number, value: number): void {
    this.write64(78 + index * 10, value);
  }
  setScalesStrideToken(index: number, value: number): void {
    this.write64(80 + index * 10, value);
  }
  set slotMapping(value: number) {
    this.write64(112, value);
  }
  get slotMapping(): number {
    return this.read64(112);
  }
  set tokenRequests(value: number) {
    this.write64(114, value);
  }
  get tokenRequests(): number {
    return this.read64(114);
  }
  set positions(value: number) {
    this.write64(116, value);
  }
  get positions(): number {
    return this.read64(116);
  }
  set pageTable(value: number) {
    this.write64(118, value);
  }
  get pageTable(): number {
    return this.read64(118);
  }
  set rowIndptr(value: number) {
    this.write64(120, value);
  }
  get rowIndptr(): number {
    return this.read64(120);
  }
  set keyPositions(value: number) {
    this.write64(122, value);
  }
  get keyPositions(): number {
    return this.read64(122);
  }
  set newPositions(value: number) {
    this.write64(124, value);
  }
  get newPositions(): number {
    return this.read64(124);
  }
  set planeCount(value: number) {
    this.i32[126] = value;
  }
  get planeCount(): number {
    return this.i32[126]!;
  }
  set tokenCount(value: number) {
    this.i32[127] = value;
  }
  get tokenCount(): number {
    return this.i32[127]!;
  }
  set pageSize(value: number) {
    this.i32[128] = value;
  }
  get pageSize(): number {
    return this.i32[128]!;
  }
  set pageCount(value: number) {
    this.i32[129] = value;
  }
  get pageCount(): number {
    return this.i32[129]!;
  }
  set requestCount(value: number) {
    this.i32[130] = value;
  }
  get requestCount(): number {
    return this.i32[130]!;
  }
  set tableStride(value: number) {
    this.i32[131] = value;
  }
  get tableStride(): number {
    return this.i32[131]!;
  }
  set tableEntries(value: number) {
    this.i32[132] = value;
  }
  get tableEntries(): number {
    return this.i32[132]!;
  }
}

/** Packs `struct fb_copy_plane` (48 bytes). */
export class CopyPlane extends Params {
  static readonly byteLength = 48;
  constructor(memory: ArrayBuffer = new ArrayBuffer(48), offset = 0) {
    super(memory, offset, 48);
  }
  set planeData(value: number) {
    this.write64(0, value);
  }
  get planeData(): number {
    return this.read64(0);
  }
  set planeStridePage(value: number) {
    this.write64(2, value);
  }
  get planeStridePage(): number {
    return this.read64(2);
  }
  set planeStrideHead(value: number) {
    this.write64(4, value);
  }
  get planeStrideHead(): number {
    return this.read64(4);
  }
  set planeStrideToken(value: number) {
    this.write64(6, value);
  }
  get planeStrideToken(): number {
    return this.read64(6);
  }
  set heads(value: number) {
    this.i32[8] = value;
  }
  get heads(): number {
    return this.i32[8]!;
  }
  set rowBytes(value: number) {
    this.i32[9] = value;
  }
  get rowBytes(): number {
    return this.i32[9]!;
  }
  set elementBytes(value: number) {
    this.i32[10] = value;
  }
  get elementBytes(): number {
    return this.i32[10]!;
  }
}

/** Packs `struct fb_copy_params` (32 bytes). */
export class CopyParams extends Params {
  static readonly byteLength = 32;
  constructor(memory: ArrayBuffer = new ArrayBuffer(32), offset = 0) {
    super(memory, offset, 32);
  }
  set planes(value: number) {
    this.write64(0, value);
  }
  get planes(): number {
    return this.read64(0);
  }
  set moves(value: number) {
    this.write64(2, value);
  }
  get moves(): number {
    return this.read64(2);
  }
  set planeCount(value: number) {
    this.i32[4] = value;
  }
  get planeCount(): number {
    return this.i32[4]!;
  }
  set moveCount(value: number) {
    this.i32[5] = value;
  }
  get moveCount(): number {
    return this.i32[5]!;
  }
  set pageSize(value: number) {
    this.i32[6] = value;
  }
  get pageSize(): number {
    return this.i32[6]!;
  }
}

/** Packs `struct fb_table_params` (24 bytes). */
export class TableParams extends Params {
  static readonly byteLength = 24;
  constructor(memory: ArrayBuffer = new ArrayBuffer(24), offset = 0) {
    super(memory, offset, 24);
  }
  set table(value: number) {
    this.write64(0, value);
  }
  get table(): number {
    return this.read64(0);
  }
  set updates(value: number) {
    this.write64(2, value);
  }
  get updates(): number {
    return this.read64(2);
  }
  set updateCount(value: number) {
    this.i32[4] = value;
  }
  get updateCount(): number {
    return this.i32[4]!;
  }
}

/** Packs `struct fb_probe_params` (40 bytes). */
export class ProbeParams extends Params {
  static readonly byteLength = 40;
  constructor(memory: ArrayBuffer = new ArrayBuffer(40), offset = 0) {
    super(memory, offset, 40);
  }
  set data(value: number) {
    this.write64(0, value);
  }
  get data(): number {
    return this.read64(0);
  }
  set bytes(value: number) {
    this.write64(2, value);
  }
  get bytes(): number {
    return this.read64(2);
  }
  set out(value: number) {
    this.write64(4, value);
  }
  get out(): number {
    return this.read64(4);
  }
  set microseconds(value: number) {
    this.i32[6] = value;
  }
  get microseconds(): number {
    return this.i32[6]!;
  }
  set iterations(value: number) {
    this.i32[7] = value;
  }
  get iterations(): number {
    return this.i32[7]!;
  }
  set fail(value: number) {
    this.i32[8] = value;
  }
  get fail(): number {
    return this.i32[8]!;
  }
}

/** Packs `struct fb_quantize_params` (128 bytes). */
export class QuantizeParams extends Params {
  static readonly byteLength = 128;
  readonly x: RowsParams;
  readonly out: RowsParams;
  readonly span: SpanParams;
  constructor(memory: ArrayBuffer = new ArrayBuffer(128), offset = 0) {
    super(memory, offset, 128);
    this.x = new RowsParams(memory, offset + 0);
    this.out = new RowsParams(memory, offset + 32);
    this.span = new SpanParams(memory, offset + 64);
  }
  set scales(value: number) {
    this.write64(24, value);
  }
  get scales(): number {
    return this.read64(24);
  }
  set blockRows(value: number) {
    this.write64(26, value);
  }
  get blockRows(): number {
    return this.read64(26);
  }
  set blockColumns(value: number) {
    this.i32[28] = value;
  }
  get blockColumns(): number {
    return this.i32[28]!;
  }
  set columnBlocks(value: number) {
    this.i32[29] = value;
  }
  get columnBlocks(): number {
    return this.i32[29]!;
  }
  set mode(value: number) {
    this.i32[30] = value;
  }
  get mode(): number {
    return this.i32[30]!;
  }
}

/** Packs `struct fb_turn_params` (48 bytes). */
export class TurnParams extends Params {
  static readonly byteLength = 48;
  constructor(memory: ArrayBuffer = new ArrayBuffer(48), offset = 0) {
    super(memory, offset, 48);
  }
  set rates(value: number) {
    this.write64(0, value);
  }
  get rates(): number {
    return this.read64(0);
  }
  set axes(value: number) {
    this.write64(2, value);
  }
  get axes(): number {
    return this.read64(2);
  }
  set positions(value: number) {
    this.write64(4, value);
  }
  get positions(): number {
    return this.read64(4);
  }
  set axisStride(value: number) {
    this.write64(6, value);
  }
  get axisStride(): number {
    return this.read64(6);
  }
  set first(value: number) {
    this.i32[8] = value;
  }
  get first(): number {
    return this.i32[8]!;
  }
  set dim(value: number) {
    this.i32[9] = value;
  }
  get dim(): number {
    return this.i32[9]!;
  }
  set interleaved(value: number) {
    this.i32[10] = value;
  }
  get interleaved(): number {
    return this.i32[10]!;
  }
  set factor(value: number) {
    this.f32[11] = value;
  }
  get factor(): number {
    return this.f32[11]!;
  }
}

/** Packs `struct fb_heads` (32 bytes). */
export class Heads extends Params {
  static readonly byteLength = 32;
  constructor(memory: ArrayBuffer = new ArrayBuffer(32), offset = 0) {
    super(memory, offset, 32);
  }
  set data(value: number) {
    this.write64(0, value);
  }
  get data(): number {
    return this.read64(0);
  }
  set strideToken(value: number) {
    this.write64(2, value);
  }
  get strideToken(): number {
    return this.read64(2);
  }
  set strideHead(value: number) {
    this.write64(4, value);
  }
  get strideHead(): number {
    return this.read64(4);
  }
  set count(value: number) {
    this.i32[6] = value;
  }
  get count(): number {
    return this.i32[6]!;
  }
  set dtype(value: number) {
    this.i32[7] = value;
  }
  get dtype(): number {
    return this.i32[7]!;
  }
}

/** Packs `struct fb_rope_params` (128 bytes). */
export class RopeParams extends Params {
  static readonly byteLength = 128;
  readonly turn: TurnParams;
  constructor(memory: ArrayBuffer = new ArrayBuffer(128), offset = 0) {
    super(memory, offset, 128);
    this.turn = new TurnParams(memory, offset + 0);
  }
  setHeadsData(index: number, value: number): void {
    this.write64(12 + index * 8, value);
  }
  setHeadsStrideToken(index: number, value: number): void {
    this.write64(14 + index * 8, value);
  }
  setHeadsStrideHead(index: number, value: number): void {
    this.write64(16 + index * 8, value);
  }
  setHeadsCount(index: number, value: number): void {
    this.i32[18 + index * 8] = value;
  }
  setHeadsDtype(index: number, value: number): void {
    this.i32[19 + index * 8] = value;
  }
  set live(value: number) {
    this.write64(28, value);
  }
  get live(): number {
    return this.read64(28);
  }
  set tokenCount(value: number) {
    this.i32[30] = value;
  }
  get tokenCount(): number {
    return this.i32[30]!;
  }
  set headLanes(value: number) {
    this.i32[31] = value;
  }
  get headLanes(): number {
    return this.i32[31]!;
  }
}

/** Packs `struct fb_rope_append_params` (688 bytes). */
export class RopeAppendParams extends Params {
  static readonly byteLength = 688;
  readonly append: AppendParams;
  readonly turn: TurnParams;
  constructor(memory: ArrayBuffer = new ArrayBuffer(688), offset = 0) {
    super(memory, offset, 688);
    this.append = new AppendParams(memory, offset + 0);
    this.turn = new TurnParams(memory, offset + 536);
  }
  set queriesData(value: number) {
    this.write64(146, value);
  }
  get queriesData(): number {
    return this.read64(146);
  }
  set queriesStrideToken(value: number) {
    this.write64(148, value);
  }
  get queriesStrideToken(): number {
    return this.read64(148);
  }
  set queriesStrideHead(value: number) {
    this.write64(150, value);
  }
  get queriesStrideHead(): number {
    return this.read64(150);
  }
  set queriesCount(value: number) {
    this.i32[152] = value;
  }
  get queriesCount(): number {
    return this.i32[152]!;
  }
  set queriesDtype(value: number) {
    this.i32[153] = value;
  }
  get queriesDtype(): number {
    return this.i32[153]!;
  }
  set queryOutData(value: number) {
    this.write64(154, value);
  }
  get queryOutData(): number {
    return this.read64(154);
  }
  set queryOutStrideToken(value: number) {
    this.write64(156, value);
  }
  get queryOutStrideToken(): number {
    return this.read64(156);
  }
  set queryOutStrideHead(value: number) {
    this.write64(158, value);
  }
  get queryOutStrideHead(): number {
    return this.read64(158);
  }
  set queryOutCount(value: number) {
    this.i32[160] = value;
  }
  get queryOutCount(): number {
    return this.i32[160]!;
  }
  set queryOutDtype(value: number) {
    this.i32[161] = value;
  }
  get queryOutDtype(): number {
    return this.i32[161]!;
  }
  setWeights(index: number, value: number): void {
    this.write64(162 + index * 2, value);
  }
  setWeightDtypes(index: number, value: number): void {
    this.i32[166 + index * 1] = value;
  }
  set weightOffset(value: number) {
    this.f32[168] = value;
  }
  get weightOffset(): number {
    return this.f32[168]!;
  }
  set eps(value: number) {
    this.f32[169] = value;
  }
  get eps(): number {
    return this.f32[169]!;
  }
  set headLanes(value: number) {
    this.i32[170] = value;
  }
  get headLanes(): number {
    return this.i32[170]!;
  }
  set turns(value: number) {
    this.i32[171] = value;
  }
  get turns(): number {
    return this.i32[171]!;
  }
}

/** Packs `struct fb_sample_params` (160 bytes). */
export class SampleParams extends Params {
  static readonly byteLength = 160;
  constructor(memory: ArrayBuffer = new ArrayBuffer(160), offset = 0) {
    super(memory, offset, 160);
  }
  set x(value: number) {
    this.write64(0, value);
  }
  get x(): number {
    return this.read64(0);
  }
  set tokens(value: number) {
    this.write64(2, value);
  }
  get tokens(): number {
    return this.read64(2);
  }
  set out(value: number) {
    this.write64(4, value);
  }
  get out(): number {
    return this.read64(4);
  }
  set status(value: number) {
    this.write64(6, value);
  }
  get status(): number {
    return this.read64(6);
  }
  set temperatures(value: number) {
    this.write64(8, value);
  }
  get temperatures(): number {
    return this.read64(8);
  }
  set topKs(value: number) {
    this.write64(10, value);
  }
  get topKs(): number {
    return this.read64(10);
  }
  set topPs(value: number) {
    this.write64(12, value);
  }
  get topPs(): number {
    return this.read64(12);
  }
  set minPs(value: number) {
    this.write64(14, value);
  }
  get minPs(): number {
    return this.read64(14);
  }
  set seeds(value: number) {
    this.write64(16, value);
  }
  get seeds(): number {
    return this.read64(16);
  }
  set positions(value: number) {
    this.write64(18, value);
  }
  get positions(): number {
    return this.read64(18);
  }
  set seed(value: number) {
    this.write64(20, value);
  }
  get seed(): number {
    return this.read64(20);
  }
  set position(value: number) {
    this.write64(22, value);
  }
  get position(): number {
    return this.read64(22);
  }
  set xStride(value: number) {
    this.write64(24, value);
  }
  get xStride(): number {
    return this.read64(24);
  }
  set outStride(value: number) {
    this.write64(26, value);
  }
  get outStride(): number {
    return this.read64(26);
  }
  set temperature(value: number) {
    this.f32[28] = value;
  }
  get temperature(): number {
    return this.f32[28]!;
  }
  set topK(value: number) {
    this.i32[29] = value;
  }
  get topK(): number {
    return this.i32[29]!;
  }
  set topP(value: number) {
    this.f32[30] = value;
  }
  get topP(): number {
    return this.f32[30]!;
  }
  set minP(value: number) {
    this.f32[31] = value;
  }
  get minP(): number {
    return this.f32[31]!;
  }
  set rowCount(value: number) {
    this.i32[32] = value;
  }
  get rowCount(): number {
    return this.i32[32]!;
  }
  set vocabulary(value: number) {
    this.i32[33] = value;
  }
  get vocabulary(): number {
    return this.i32[33]!;
  }
  set dtype(value: number) {
    this.i32[34] = value;
  }
  get dtype(): number {
    return this.i32[34]!;
  }
  set outDtype(value: number) {
    this.i32[35] = value;
  }
  get outDtype(): number {
    return this.i32[35]!;
  }
  set outKind(value: number) {
    this.i32[36] = value;
  }
  get outKind(): number {
    return this.i32[36]!;
  }
  set isProbabilities(value: number) {
    this.i32[37] = value;
  }
  get isProbabilities(): number {
    return this.i32[37]!;
  }
  set isJoint(value: number) {
    this.i32[38] = value;
  }
  get isJoint(): number {
    return this.i32[38]!;
  }
  set isPositionRow(value: number) {
    this.i32[39] = value;
  }
  get isPositionRow(): number {
    return this.i32[39]!;
  }
}

/** Packs `struct fb_top_k_params` (96 bytes). */
export class TopKParams extends Params {
  static readonly byteLength = 96;
  constructor(memory: ArrayBuffer = new ArrayBuffer(96), offset = 0) {
    super(memory, offset, 96);
  }
  set x(value: number) {
    this.write64(0, value);
  }
  get x(): number {
    return this.read64(0);
  }
  set values(value: number) {
    this.write64(2, value);
  }
  get values(): number {
    return this.read64(2);
  }
  set indices(value: number) {
    this.write64(4, value);
  }
  get indices(): number {
    return this.read64(4);
  }
  set tokens(value: number) {
    this.write64(6, value);
  }
  get tokens(): number {
    return this.read64(6);
  }
  set chosen(value: number) {
    this.write64(8, value);
  }
  get chosen(): number {
    return this.read64(8);
  }
  set status(value: number) {
    this.write64(10, value);
  }
  get status(): number {
    return this.read64(10);
  }
  set xStride(value: number) {
    this.write64(12, value);
  }
  get xStride(): number {
    return this.read64(12);
  }
  set valuesStride(value: number) {
    this.write64(14, value);
  }
  get valuesStride(): number {
    return this.read64(14);
  }
  set indicesStride(value: number) {
    this.write64(16, value);
  }
  get indicesStride(): number {
    return this.read64(16);
  }
  set temperature(value: number) {
    this.f32[18] = value;
  }
  get temperature(): number {
    return this.f32[18]!;
  }
  set rowCount(value: number) {
    this.i32[19] = value;
  }
  get rowCount(): number {
    return this.i32[19]!;
  }
  set rowLength(value: number) {
    this.i32[20] = value;
  }
  get rowLength(): number {
    return this.i32[20]!;
  }
  set k(value: number) {
    this.i32[21] = value;
  }
  get k(): number {
    return this.i32[21]!;
  }
  set dtype(value: number) {
    this.i32[22] = value;
  }
  get dtype(): number {
    return this.i32[22]!;
  }
  set isLogProbabilities(value: number) {
    this.i32[23] = value;
  }
  get isLogProbabilities(): number {
    return this.i32[23]!;
  }
}

/** Packs `struct fb_adjust_params` (160 bytes). */
export class AdjustParams extends Params {
  static readonly byteLength = 160;
  constructor(memory: ArrayBuffer = new ArrayBuffer(160), offset = 0) {
    super(memory, offset, 160);
  }
  set x(value: number) {
    this.write64(0, value);
  }
  get x(): number {
    return this.read64(0);
  }
  set out(value: number) {
    this.write64(2, value);
  }
  get out(): number {
    return this.read64(2);
  }
  set bias(value: number) {
    this.write64(4, value);
  }
  get bias(): number {
    return this.read64(4);
  }
  set allowed(value: number) {
    this.write64(6, value);
  }
  get allowed(): number {
    return this.read64(6);
  }
  set prompts(value: number) {
    this.write64(8, value);
  }
  get prompts(): number {
    return this.read64(8);
  }
  set counts(value: number) {
    this.write64(10, value);
  }
  get counts(): number {
    return this.read64(10);
  }
  set slots(value: number) {
    this.write64(12, value);
  }
  get slots(): number {
    return this.read64(12);
  }
  set repetitions(value: number) {
    this.write64(14, value);
  }
  get repetitions(): number {
    return this.read64(14);
  }
  set presences(value: number) {
    this.write64(16, value);
  }
  get presences(): number {
    return this.read64(16);
  }
  set frequencies(value: number) {
    this.write64(18, value);
  }
  get frequencies(): number {
    return this.read64(18);
  }
  set xStride(value: number) {
    this.write64(20, value);
  }
  get xStride(): number {
    return this.read64(20);
  }
  set outStride(value: number) {
    this.write64(22, value);
  }
  get outStride(): number {
    return this.read64(22);
  }
  set biasStride(value: number) {
    this.write64(24, value);
  }
  get biasStride(): number {
    return this.read64(24);
  }
  set allowedStride(value: number) {
    this.write64(26, value);
  }
  get allowedStride(): number {
    return this.read64(26);
  }
  set promptsStride(value: number) {
    this.write64(28, value);
  }
  get promptsStride(): number {
    return this.read64(28);
  }
  set countsStride(value: number) {
    this.write64(30, value);
  }
  get countsStride(): number {
    return this.read64(30);
  }
  set repetition(value: number) {
    this.f32[32] = value;
  }
  get repetition(): number {
    return this.f32[32]!;
  }
  set presence(value: number) {
    this.f32[33] = value;
  }
  get presence(): number {
    return this.f32[33]!;
  }
  set frequency(value: number) {
    this.f32[34] = value;
  }
  get frequency(): number {
    return this.f32[34]!;
  }
  set rowCount(value: number) {
    this.i32[35] = value;
  }
  get rowCount(): number {
    return this.i32[35]!;
  }
  set slotCount(value: number) {
    this.i32[36] = value;
  }
  get slotCount(): number {
    return this.i32[36]!;
  }
  set vocabulary(value: number) {
    this.i32[37] = value;
  }
  get vocabulary(): number {
    return this.i32[37]!;
  }
  set dtype(value: number) {
    this.i32[38] = value;
  }
  get dtype(): number {
    return this.i32[38]!;
  }
}

/** Packs `struct fb_count_tokens_params` (48 bytes). */
export class CountTokensParams extends Params {
  static readonly byteLength = 48;
  constructor(memory: ArrayBuffer = new ArrayBuffer(48), offset = 0) {
    super(memory, offset, 48);
  }
  set counts(value: number) {
    this.write64(0, value);
  }
  get counts(): number {
    return this.read64(0);
  }
  set tokens(value: number) {
    this.write64(2, value);
  }
  get tokens(): number {
    return this.read64(2);
  }
  set slots(value: number) {
    this.write64(4, value);
  }
  get slots(): number {
    return this.read64(4);
  }
  set countsStride(value: number) {
    this.write64(6, value);
  }
  get countsStride(): number {
    return this.read64(6);
  }
  set rowCount(value: number) {
    this.i32[8] = value;
  }
  get rowCount(): number {
    return this.i32[8]!;
  }
  set slotCount(value: number) {
    this.i32[9] = value;
  }
  get slotCount(): number {
    return this.i32[9]!;
  }
  set vocabulary(value: number) {
    this.i32[10] = value;
  }
  get vocabulary(): number {
    return this.i32[10]!;
  }
}

/** Packs `struct fb_place_params` (64 bytes). */
export class PlaceParams extends Params {
  static readonly byteLength = 64;
  constructor(memory: ArrayBuffer = new ArrayBuffer(64), offset = 0) {
    super(memory, offset, 64);
  }
  set values(value: number) {
    this.write64(0, value);
  }
  get values(): number {
    return this.read64(0);
  }
  set indices(value: number) {
    this.write64(2, value);
  }
  get indices(): number {
    return this.read64(2);
  }
  set out(value: number) {
    this.write64(4, value);
  }
  get out(): number {
    return this.read64(4);
  }
  set rankBytes(value: number) {
    this.write64(6, value);
  }
  get rankBytes(): number {
    return this.read64(6);
  }
  set outStride(value: number) {
    this.write64(8, value);
  }
  get outStride(): number {
    return this.read64(8);
  }
  set rowCount(value: number) {
    this.i32[10] = value;
  }
  get rowCount(): number {
    return this.i32[10]!;
  }
  set k(value: number) {
    this.i32[11] = value;
  }
  get k(): number {
    return this.i32[11]!;
  }
  set rankCount(value: number) {
    this.i32[12] = value;
  }
  get rankCount(): number {
    return this.i32[12]!;
  }
  set columnCount(value: number) {
    this.i32[13] = value;
  }
  get columnCount(): number {
    return this.i32[13]!;
  }
  set vocabulary(value: number) {
    this.i32[14] = value;
  }
  get vocabulary(): number {
    return this.i32[14]!;
  }
  set dtype(value: number) {
    this.i32[15] = value;
  }
  get dtype(): number {
    return this.i32[15]!;
  }
}

/** Packs `struct fb_drafts_params` (160 bytes). */
export class DraftsParams extends Params {
  static readonly byteLength = 160;
  constructor(memory: ArrayBuffer = new ArrayBuffer(160), offset = 0) {
    super(memory, offset, 160);
  }
  set tokens(value: number) {
    this.write64(0, value);
  }
  get tokens(): number {
    return this.read64(0);
  }
  set parents(value: number) {
    this.write64(2, value);
  }
  get parents(): number {
    return this.read64(2);
  }
  set counts(value: number) {
    this.write64(4, value);
  }
  get counts(): number {
    return this.read64(4);
  }
  set targets(value: number) {
    this.write64(6, value);
  }
  get targets(): number {
    return this.read64(6);
  }
  set drafts(value: number) {
    this.write64(8, value);
  }
  get drafts(): number {
    return this.read64(8);
  }
  set out(value: number) {
    this.write64(10, value);
  }
  get out(): number {
    return this.read64(10);
  }
  set path(value: number) {
    this.write64(12, value);
  }
  get path(): number {
    return this.read64(12);
  }
  set accepted(value: number) {
    this.write64(14, value);
  }
  get accepted(): number {
    return this.read64(14);
  }
  set status(value: number) {
    this.write64(16, value);
  }
  get status(): number {
    return this.read64(16);
  }
  set seeds(value: number) {
    this.write64(18, value);
  }
  get seeds(): number {
    return this.read64(18);
  }
  set positions(value: number) {
    this.write64(20, value);
  }
  get positions(): number {
    return this.read64(20);
  }
  set seed(value: number) {
    this.write64(22, value);
  }
  get seed(): number {
    return this.read64(22);
  }
  set position(value: number) {
    this.write64(24, value);
  }
  get position(): number {
    return this.read64(24);
  }
  set targetStride(value: number) {
    this.write64(26, value);
  }
  get targetStride(): number {
    return this.read64(26);
  }
  set targetNodeStride(value: number) {
    this.write64(28, value);
  }
  get targetNodeStride(): number {
    return this.read64(28);
  }
  set draftStride(value: number) {
    this.write64(30, value);
  }
  get draftStride(): number {
    return this.read64(30);
  }
  set draftNodeStride(value: number) {
    this.write64(32, value);
  }
  get draftNodeStride(): number {
    return this.read64(32);
  }
  set rowCount(value: number) {
    this.i32[34] = value;
  }
  get rowCount(): number {
    return this.i32[34]!;
  }
  set draftCount(value: number) {
    this.i32[35] = value;
  }
  get draftCount(): number {
    return this.i32[35]!;
  }
  set vocabulary(value: number) {
    this.i32[36] = value;
  }
  get vocabulary(): number {
    return this.i32[36]!;
  }
  set targetDtype(value: number) {
    this.i32[37] = value;
  }
  get targetDtype(): number {
    return this.i32[37]!;
  }
  set draftDtype(value: number) {
    this.i32[38] = value;
  }
  get draftDtype(): number {
    return this.i32[38]!;
  }
  set isPositionRow(value: number) {
    this.i32[39] = value;
  }
  get isPositionRow(): number {
    return this.i32[39]!;
  }
}

/** Packs `struct fb_state` (48 bytes). */
export class State extends Params {
  static readonly byteLength = 48;
  constructor(memory: ArrayBuffer = new ArrayBuffer(48), offset = 0) {
    super(memory, offset, 48);
  }
  set out(value: number) {
    this.write64(0, value);
  }
  get out(): number {
    return this.read64(0);
  }
  set lse(value: number) {
    this.write64(2, value);
  }
  get lse(): number {
    return this.read64(2);
  }
  set strideToken(value: number) {
    this.write64(4, value);
  }
  get strideToken(): number {
    return this.read64(4);
  }
  set strideHead(value: number) {
    this.write64(6, value);
  }
  get strideHead(): number {
    return this.read64(6);
  }
  set lseStrideToken(value: number) {
    this.write64(8, value);
  }
  get lseStrideToken(): number {
    return this.read64(8);
  }
  set lseStrideHead(value: number) {
    this.write64(10, value);
  }
  get lseStrideHead(): number {
    return this.read64(10);
  }
}

/** Packs `struct fb_merge_params` (496 bytes). */
export class MergeParams extends Params {
  static readonly byteLength = 496;
  constructor(memory: ArrayBuffer = new ArrayBuffer(496), offset = 0) {
    super(memory, offset, 496);
  }
  setStatesOut(index: number, value: number): void {
    this.write64(0 + index * 12, value);
  }
  setStatesLse(index: number, value: number): void {
    this.write64(2 + index * 12, value);
  }
  setStatesStrideToken(index: number, value: number): void {
    this.write64(4 + index * 12, value);
  }
  setStatesStrideHead(index: number, value: number): void {
    this.write64(6 + index * 12, value);
  }
  setStatesLseStrideToken(index: number, value: number): void {
    this.write64(8 + index * 12, value);
  }
  setStatesLseStrideHead(index: number, value: number): void {
    this.write64(10 + index * 12, value);
  }
  set mergedOut(value: number) {
    this.write64(96, value);
  }
  get mergedOut(): number {
    return this.read64(96);
  }
  set mergedLse(value: number) {
    this.write64(98, value);
  }
  get mergedLse(): number {
    return this.read64(98);
  }
  set mergedStrideToken(value: number) {
    this.write64(100, value);
  }
  get mergedStrideToken(): number {
    return this.read64(100);
  }
  set mergedStrideHead(value: number) {
    this.write64(102, value);
  }
  get mergedStrideHead(): number {
    return this.read64(102);
  }
  set mergedLseStrideToken(value: number) {
    this.write64(104, value);
  }
  get mergedLseStrideToken(): number {
    return this.read64(104);
  }
  set mergedLseStrideHead(value: number) {
    this.write64(106, value);
  }
  get mergedLseStrideHead(): number {
    return this.read64(106);
  }
  set stateStride(value: number) {
    this.write64(108, value);
  }
  get stateStride(): number {
    return this.read64(108);
  }
  set lseStateStride(value: number) {
    this.write64(110, value);
  }
  get lseStateStride(): number {
    return this.read64(110);
  }
  set indptr(value: number) {
    this.write64(112, value);
  }
  get indptr(): number {
    return this.read64(112);
  }
  set mask(value: number) {
    this.write64(114, value);
  }
  get mask(): number {
    return this.read64(114);
  }
  set stateCount(value: number) {
    this.i32[116] = value;
  }
  get stateCount(): number {
    return this.i32[116]!;
  }
  set rowCount(value: number) {
    this.i32[117] = value;
  }
  get rowCount(): number {
    return this.i32[117]!;
  }
  set heads(value: number) {
    this.i32[118] = value;
  }
  get heads(): number {
    return this.i32[118]!;
  }
  set dim(value: number) {
    this.i32[119] = value;
  }
  get dim(): number {
    return this.i32[119]!;
  }
  set inDtype(value: number) {
    this.i32[120] = value;
  }
  get inDtype(): number {
    return this.i32[120]!;
  }
  set outDtype(value: number) {
    this.i32[121] = value;
  }
  get outDtype(): number {
    return this.i32[121]!;
  }
  set logBase(value: number) {
    this.f32[122] = value;
  }
  get logBase(): number {
    return this.f32[122]!;
  }
}

/** Packs `struct fb_random_params` (40 bytes). */
export class RandomParams extends Params {
  static readonly byteLength = 40;
  constructor(memory: ArrayBuffer = new ArrayBuffer(40), offset = 0) {
    super(memory, offset, 40);
  }
  set out(value: number) {
    this.write64(0, value);
  }
  get out(): number {
    return this.read64(0);
  }
  set count(value: number) {
    this.write64(2, value);
  }
  get count(): number {
    return this.read64(2);
  }
  set seed(value: number) {
    this.write64(4, value);
  }
  get seed(): number {
    return this.read64(4);
  }
  set mean(value: number) {
    this.f32[6] = value;
  }
  get mean(): number {
    return this.f32[6]!;
  }
  set deviation(value: number) {
    this.f32[7] = value;
  }
  get deviation(): number {
    return this.f32[7]!;
  }
  set dtype(value: number) {
    this.i32[8] = value;
  }
  get dtype(): number {
    return this.i32[8]!;
  }
}

/** Packs `struct fb_convert_params` (168 bytes). */
export class ConvertParams extends Params {
  static readonly byteLength = 168;
  constructor(memory: ArrayBuffer = new ArrayBuffer(168), offset = 0) {
    super(memory, offset, 168);
  }
  set source(value: number) {
    this.write64(0, value);
  }
  get source(): number {
    return this.read64(0);
  }
  set target(value: number) {
    this.write64(2, value);
  }
  get target(): number {
    return this.read64(2);
  }
  setSizes(index: number, value: number): void {
    this.write64(4 + index * 2, value);
  }
  setSourceStrides(index: number, value: number): void {
    this.write64(16 + index * 2, value);
  }
  setTargetStrides(index: number, value: number): void {
    this.write64(28 + index * 2, value);
  }
  set sourceDtype(value: number) {
    this.i32[40] = value;
  }
  get sourceDtype(): number {
    return this.i32[40]!;
  }
  set targetDtype(value: number) {
    this.i32[41] = value;
  }
  get targetDtype(): number {
    return this.i32[41]!;
  }
}

/** Packs `struct fb_variant_probe_params` (448 bytes). */
export class VariantProbeParams extends Params {
  static readonly byteLength = 448;
  constructor(memory: ArrayBuffer = new ArrayBuffer(448), offset = 0) {
    super(memory, offset, 448);
  }
  set variantProgram(value: number) {
    this.write64(0, value);
  }
  get variantProgram(): number {
    return this.read64(0);
  }
  setVariantData(index: number, value: number): void {
    this.write64(2 + index * 2, value);
  }
  setVariantSizes(index: number, value: number): void {
    this.i32[18 + index * 1] = value;
  }
  setVariantStrides(index: number, value: number): void {
    this.i32[50 + index * 1] = value;
  }
  setVariantScalars(index: number, value: number): void {
    this.i32[82 + index * 1] = value;
  }
  set variantProgramWords(value: number) {
    this.i32[98] = value;
  }
  get variantProgramWords(): number {
    return this.i32[98]!;
  }
  set rows(value: number) {
    this.write64(100, value);
  }
  get rows(): number {
    return this.read64(100);
  }
  set keys(value: number) {
    this.write64(102, value);
  }
  get keys(): number {
    return this.read64(102);
  }
  set x(value: number) {
    this.write64(104, value);
  }
  get x(): number {
    return this.read64(104);
  }
  set rowCount(value: number) {
    this.i32[106] = value;
  }
  get rowCount(): number {
    return this.i32[106]!;
  }
  set keyCount(value: number) {
    this.i32[107] = value;
  }
  get keyCount(): number {
    return this.i32[107]!;
  }
  set dim(value: number) {
    this.i32[108] = value;
  }
  get dim(): number {
    return this.i32[108]!;
  }
  set section(value: number) {
    this.i32[109] = value;
  }
  get section(): number {
    return this.i32[109]!;
  }
  set keysInside(value: number) {
    this.i32[110] = value;
  }
  get keysInside(): number {
    return this.i32[110]!;
  }
  set masked(value: number) {
    this.i32[111] = value;
  }
  get masked(): number {
    return this.i32[111]!;
  }
}
