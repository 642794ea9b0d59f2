import type { DeviceKind } from "../device/open.ts";

/** What of a model its attention needs to know. */
export interface ModelShape {
  readonly name: string;
  readonly layers: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  /** Elements of a head, keys and values alike. */
  readonly headDim: number;
  /** Logits become softCap * tanh(logit / softCap); absent: no cap. */
  readonly softCap?: number;
  /** Keys before a query's own position that it sees; absent: all. */
  readonly windowLeft?: number;
}

/** One request of a workload. */
export interface ReplayRequest {
  id: number;
  /** When it arrives, in seconds since the trace's first request. */
  arrivalSeconds: number;
  /** Token ids of the prompt; requests with equal leading ids share that prefix. */
  promptTokens: Int32Array;
  /** Tokens to generate, 1 or more. */
  outputTokens: number;
}

/** What one step did; times are in seconds since the start of the run. */
export interface StepRecord {
  startSeconds: number;
  endSeconds: number;
  /** Tokens of requests that generate, one each. */
  decodeTokens: number;
  /** Prompt tokens taken in, all chunks together. */
  prefillTokens: number;
  runningRequests: number;
  waitingRequests: number;
  pagesUsed: number;
  planMicroseconds: number;
  /**
   * Scheduling, batch, plan and enqueue; neither synthesis of inputs nor kernels. All but the
   * enqueue is done while the step before runs, so before startSeconds.
   */
  hostMicroseconds: number;
  /** Making the queries, keys and values that a model would have made. */
  synthesisMicroseconds: number;
  kernelMicroseconds: number;
  /** Batch size of the captured graph that ran all layers at once; 0: launched one by one. */
  graphBucket: number;
  /**
   * Bytes of keys and values that the step's attention read, all layers. Pages that requests share
   * count for each record that reads them, also where a cache and not memory gave them.
   */
  kvBytes: number;
}

/** Life of a request; times are in seconds since the start of the run. */
export interface RequestRecord {
  id: number;
  /** When it arrived, after scaling by `speed`; 0 for all when back to back. */
  arrivalSeconds: number;
  /** NaN when the run ended before. */
  firstTokenSeconds: number;
  /** NaN when the run ended before. */
  finishSeconds: number;
  promptTokens: number;
  /** Tokens generated so far. */
  outputTokens: number;
  /** When each generated token came out, [outputTokens]. */
  tokenSeconds: Float64Array;
  /** Prompt tokens found in the prefix index. */
  cachedTokens: number;
  preemptions: number;
}

/** Outputs recomputed in f64 and compared; a miss is a sentence. */
export interface VerifyResult {
  checked: number;
  failed: number;
  maxRelError: number;
  misses: string[];
}

/** What a run leaves behind. */
export interface ReplayResult {
  requests: RequestRecord[];
  steps: StepRecord[];
  seconds: number;
  preemptions: number;
  /** Prompt tokens found in the prefix index over prompt tokens looked up, 0 to 1. */
  prefixHitRate: number;
  /** Most pages in use at once over all pages, 0 to 1. */
  pageUsePeak: number;
  /** All pages of the cache. */
  pages: number;
  /**
   * Bytes of keys and values over the time of the attention kernels, in 1e9 bytes per second, of
   * the steps without prompts if there are any: prompts are bound by arithmetic.
   */
  kvReadGBs: number;
  /** What plain reading reaches on the same device in the same run. */
  readCeilingGBs: number;
  verified: VerifyResult;
  device: string;
  shape: string;
  trace: string;
  /** One plan drawn; null when no step ran. */
  planSvg: string | null;
  interrupted: boolean;
}

/** How to run a workload. */
export interface ReplayOptions {
  shape: ModelShape;
  /** Layers to run, 1 or more. */
  layers: number;
  pages: number;
  /** Tokens per page. */
  pageSize: number;
  /** Most tokens per step, decode and prefill together. */
  tokenBudget: number;
  /** Most requests that run at once. */
  maxBatch: number;
  /** Arrivals are this many times as fast as in the trace; Infinity: back to back. */
  speed: number;
  /** Outputs to recompute in f64; 0: none. */
  verify: number;
  seed: number;
  /** Device to run on; absent: the CPU. */
  device?: DeviceKind;
  /** Threads of the CPU device; absent: all cores. */
  threads?: number;
  /** Of queries, keys and values; absent: f32 on the CPU, bf16 on a GPU. */
  dtype?: "f32" | "f16" | "bf16";
  /** Steps of one token per request replay captured graphs; absent or "auto": on a GPU. */
  graph?: "auto" | "on" | "off";
  /** Name of the workload, for the result. */
  trace?: string;
  /** False: the read ceiling is not measured and stays 0, which spares a warm-up its time. */
  probe?: boolean;
  /** Called after every step with the requests done and their total. */
  onStep?(step: StepRecord, done: number, total: number): void;
  /** Ends the run after the current step; the result says `interrupted`. */
  signal?: AbortSignal;
}
