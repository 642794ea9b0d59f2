/**
 * Models that answer many requests at once: weights in, tokens out.
 * @module flashbun/engine
 */
export { Encoder, type EncoderOptions } from "./encoder.ts";
export { EncoderClosedError, EngineClosedError } from "./closed.ts";
export { Engine } from "./engine.ts";
export type { EngineOptions } from "./options.ts";
export type { LoadProgress } from "../models/load-count.ts";
export { Communicator, type CommunicatorOptions, type Exchange } from "../comm/communicator.ts";
export type { CommLibrary } from "../comm/library.ts";
export { mergeRanks } from "../comm/merge-ranks.ts";
export { type Ranks, ranksOf } from "../comm/ranks.ts";
export type {
  FinishReason,
  GeneratedToken,
  GenerateOptions,
  Generation,
  GenerationUsage,
  TokenLogProb,
} from "./request.ts";
export type { Tool, ToolChoice } from "./tool-options.ts";
export type { JsonSchema } from "../grammar/json-schema.ts";
export type { ToolCallPiece } from "../text/tool-calls.ts";
export type { EngineLive, LiveRequest } from "./live.ts";
export { SamplingError } from "./sampler.ts";
export type { SamplingOptions } from "./sampling.ts";
export type { EngineStats } from "./stats.ts";
export type { DraftModelOptions, PromptLookupOptions, SpeculateOptions } from "./speculate.ts";
export {
  type ChatMessage,
  ChatTemplate,
  TemplateError,
  type TemplateInputs,
} from "../text/chat-template.ts";
export { type AddedToken, Tokenizer, type TokenizerJson } from "../text/tokenizer.ts";
export { CheckpointError } from "../weights/errors.ts";
export { FetchError, fetchSmolLm2 } from "../weights/smollm2.ts";
