/**
 * Attention for LLM serving: paged KV cache, planner and kernels.
 * @module flashbun
 */
export { attend, type AttendOptions } from "./attention/attend.ts";
export { alibiSlopes, Attention } from "./attention/attention.ts";
export type { PlanSettings } from "./attention/settings.ts";
export type { RunTensors } from "./attention/tensors.ts";
export type { AppendIndices } from "./cache/append-indices.ts";
export { appendPages, type AppendPagesOptions, type PageRows } from "./cache/append-pages.ts";
export type { CacheGroupOptions, PagedCacheOptions, PlaneOptions } from "./cache/options.ts";
export type { AttentionOptions, GraphOptions, ResolvedOptions } from "./attention/options.ts";
export type { RowDims } from "./attention/row-dims.ts";
export type {
  PageListLevel,
  PageListsOptions,
  PageStepOptions,
} from "./cache/page-list-options.ts";
export { PageLists } from "./cache/page-lists.ts";
export { normRopeAppend, type NormRopeAppendTensors } from "./cache/norm-rope-append.ts";
export { type CacheMemory, PagedCache } from "./cache/paged-cache.ts";
export type { AppendTensors } from "./cache/step-appends.ts";
export type { VariantInputs } from "./attention/variant/inputs.ts";
export { Device } from "./device/device.ts";
export { Graph } from "./device/graph.ts";
export { type CpuLevel, cpuLevels, type DeviceKind, type DeviceOptions } from "./device/open.ts";
export type { Context } from "./device/context.ts";
export type { Memory, MemoryStats } from "./device/memory.ts";
export { Event, Stream } from "./device/stream.ts";
export * from "./errors.ts";
export { libraryPath } from "./ffi/library.ts";
export { type Batch, type BatchOptions, createBatch, type OutOfPages } from "./kv/batch.ts";
export { type Layout, type Level, pagesLayout, raggedLayout } from "./kv/layout.ts";
export { PrefixIndex, type PrefixStats } from "./kv/prefix-index.ts";
export { type PrefixMatch, Sequence, SequencePool } from "./kv/sequence.ts";
export type { PageGroupOptions } from "./kv/page-group.ts";
export type { SequencePoolOptions } from "./kv/sequence-state.ts";
export type { ReserveOptions } from "./kv/reserve.ts";
export type { WorthSharing } from "./kv/share-prefixes.ts";
export {
  blockMaskLayout,
  type BlockMaskOptions,
  tokenMaskLayout,
  type TokenMaskOptions,
} from "./kv/sparse-layout.ts";
export { type UserPages, userPages, type UserPagesOptions } from "./kv/user-pages.ts";
export type { Integers } from "./kv/validate.ts";
export {
  type ActivationOptions,
  geluAndMul,
  geluTanhAndMul,
  siluAndMul,
} from "./ops/activation.ts";
export { argmax, type ArgmaxOptions } from "./ops/argmax.ts";
export { add, capLogits } from "./ops/elementwise.ts";
export {
  dequantize,
  type DequantizeOptions,
  quantize,
  type Quantized,
  type QuantizeOptions,
  type ScaleBlock,
  scaleBlocks,
} from "./ops/quantize.ts";
export { type GatherOptions, gatherRows, scatterRows } from "./ops/gather.ts";
export {
  adjustLogits,
  type AdjustOptions,
  type CountOptions,
  countTokens,
} from "./ops/adjust-logits.ts";
export {
  type DraftOptions,
  matchDrafts,
  type Verified,
  verifyDrafts,
  type VerifyOptions,
} from "./ops/drafts.ts";
export {
  addRmsNorm,
  layerNorm,
  type LayerNormOptions,
  rmsNorm,
  type RmsNormOptions,
} from "./ops/norm.ts";
export type { OutOptions, RowOptions } from "./ops/rows.ts";
export { applyRope } from "./ops/apply-rope.ts";
export {
  type ExpertGroups,
  ExpertRouting,
  routeExperts,
  type RouteOptions,
} from "./ops/routing.ts";
export { matmul } from "./ops/matmul.ts";
export type { Activation, MatmulOptions, RowGroups } from "./ops/matmul-options.ts";
export { combineExperts, type CombineOptions, moe, type MoeOptions } from "./ops/moe.ts";
export { Rope, type RopeOptions } from "./ops/rope.ts";
export { packBits, type PackBitsOptions, type SegmentBits, segmentPackBits } from "./ops/bits.ts";
export {
  type AttentionState,
  type LseBase,
  type MergeOptions,
  mergeStates,
  type StackedStates,
} from "./ops/states.ts";
export type { PerRow } from "./ops/token-rows.ts";
export {
  type FilterOptions,
  maskLogits,
  type KeptRowsOptions,
  renormalize,
  sample,
  type SampleOptions,
  sampleStatus,
  softmax,
  type SoftmaxOptions,
} from "./ops/sample.ts";
export {
  logProbs,
  type LogProbOptions,
  type LogProbs,
  type TopK,
  topK,
  type TopKOptions,
} from "./ops/top-k.ts";
export {
  type DynamicScaling,
  type LinearScaling,
  type Llama3Scaling,
  type LongRopeScaling,
  type RopeScaling,
  type YarnScaling,
  yarnMscale,
} from "./ops/rope-scaling.ts";
export type { GraphSizes, PlannerOptions } from "./plan/options.ts";
export type { Plan, PlanLaunch, PlanOffsets } from "./plan/plan.ts";
export { checkPlan } from "./plan/check.ts";
export { type CostModel, defaultCosts, worthSharing } from "./plan/cost.ts";
export { type Coverage, coverageOf } from "./plan/coverage.ts";
export { type DrawOptions, drawPlan } from "./plan/draw.ts";
export { planTrace, type TimelineOptions } from "./plan/timeline.ts";
export type { ClassTraits } from "./plan/traits.ts";
export { type ExportOptions, fromDLPack, toDLPack } from "./tensor/dlpack.ts";
export { type DType, dtypes, type TypedArray } from "./tensor/dtype.ts";
export type { PageOrder } from "./tensor/page-order.ts";
export type { NormalOptions } from "./tensor/random.ts";
export { Tensor } from "./tensor/tensor.ts";
export {
  type DenseScheme,
  type Fp8Scheme,
  type GroupedScheme,
  Weight,
  type WeightScheme,
} from "./tensor/weight.ts";
export type { Pairing } from "./variant/builtin.ts";
export type { HookInputs, KeyInput, RowInput, VariantTensor } from "./variant/context.ts";
export type { ScalarDeclaration, TensorDeclaration } from "./variant/declare.ts";
export {
  type CudaVariantDefinition,
  defineCudaVariant,
  defineVariant,
  type Hook,
  type HookContext,
  type ScalarDeclarations,
  type ScalarValue,
  type TensorDeclarations,
  type TensorElement,
  type TensorIndices,
  type VariantDefinition,
} from "./variant/define.ts";
export type { VariantMatrix } from "./variant/value.ts";
export {
  type Environment,
  evaluate,
  type EvaluationTensor,
  Evaluator,
} from "./variant/evaluate.ts";
export type {
  DimName,
  Extent,
  HookName,
  InputName,
  Node as ExpressionNode,
  Op,
  ScalarSpec,
  TensorDtype,
  TensorSpec,
  ValueType,
} from "./variant/expression.ts";
export * as variants from "./variant/library.ts";
export { Bool, F32, I32 } from "./variant/values.ts";
export type {
  CudaSource,
  Variant,
  Visible,
  VisibleRanges,
  VisibleTile,
} from "./variant/variant.ts";
