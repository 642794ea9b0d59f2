/** One load. */
export interface Row {
  readonly name: string;
  readonly prompt: string;
  readonly output: string;
  readonly requests: number;
  /** In a closed loop. */
  readonly clients?: number;
  /** Requests per second. */
  readonly rate?: number;
  /** Answers that share a prompt. */
  readonly samples?: number;
  /** Asked for once before it is measured, so that its prompts are in the cache. */
  readonly again?: boolean;
  /** Tokens/s that TensorRT-LLM 1.0 gives for one H200 and Llama 3.1 8B in FP8. */
  readonly tensorRt?: number;
}

/** Of TensorRT-LLM's table tokens in and out, and its figure; it takes 3000 requests and more. */
const allAtOnce = [
  { prompt: 128, output: 128, requests: 1024, tensorRt: 27_911 },
  { prompt: 1000, output: 1000, requests: 256, tensorRt: 17_744 },
  { prompt: 2048, output: 128, requests: 128, tensorRt: 3538 },
];

/** Table G.3 of the FlashInfer paper. */
export const scheduledLoads: readonly Row[] = [
  { name: "ShareGPT, 16/s", prompt: "sharegpt", output: "sharegpt", requests: 320, rate: 16 },
  { name: "512-2048, 8/s", prompt: "512-2048", output: "256", requests: 160, rate: 8 },
  { name: "4096-16384, 1/s", prompt: "4096-16384", output: "256", requests: 24, rate: 1 },
];

/** Its figure 10: parallel generation. */
export const parallelLoads: readonly Row[] = [1, 2, 4, 8, 16, 32, 64].map((samples) => ({
  name: `n = ${samples}, 16 answers/s`,
  prompt: "sharegpt",
  output: "sharegpt",
  requests: Math.max(8, Math.ceil(192 / samples)),
  rate: 16 / samples,
  samples,
}));

const gpu: readonly Row[] = [
  { name: "1 client, 1k", prompt: "1024", output: "256", requests: 4, clients: 1 },
  { name: "16 clients, 1k", prompt: "1024", output: "256", requests: 48, clients: 16 },
  { name: "64 clients, 1k", prompt: "1024", output: "256", requests: 192, clients: 64 },
  ...scheduledLoads,
  ...parallelLoads,
  ...allAtOnce.map(({ prompt, output, requests, tensorRt }) => ({
    name: `${prompt} in, ${output} out, all at once`,
    prompt: String(prompt),
    output: String(output),
    requests,
    clients: requests,
    tensorRt,
  })),
];

const cpu: readonly Row[] = [
  { name: "1 client", prompt: "64", output: "64", requests: 4, clients: 1 },
  { name: "16 clients", prompt: "64", output: "64", requests: 48, clients: 16 },
  { name: "ShareGPT, 4 clients", prompt: "sharegpt", output: "sharegpt", requests: 8, clients: 4 },
  { name: "a prompt of 1500", prompt: "1500", output: "4", requests: 3, clients: 1 },
  { name: "the same again", prompt: "1500", output: "4", requests: 3, clients: 1, again: true },
  ...[4, 16].map((samples) => ({
    name: `n = ${samples}`,
    prompt: "sharegpt",
    output: "32",
    requests: 2,
    clients: 1,
    samples,
  })),
];

/** The loads of a device. */
export function rowsFor(kind: "cpu" | "cuda"): readonly Row[] {
  return kind === "cpu" ? cpu : gpu;
}
