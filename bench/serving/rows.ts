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
}

const sizes = [1, 2, 4, 8, 16, 32, 64];

/** Tokens in and out as TensorRT-LLM's tables have them are left to `flashbun bench`. */
const gpu: readonly Row[] = [
  { name: "1 client, 1k", prompt: "1024", output: "256", requests: 4, clients: 1 },
  { name: "16 clients, 1k", prompt: "1024", output: "256", requests: 48, clients: 16 },
  { name: "64 clients, 1k", prompt: "1024", output: "256", requests: 192, clients: 64 },
  // Table G.3 of the paper.
  { name: "ShareGPT, 16/s", prompt: "sharegpt", output: "sharegpt", requests: 320, rate: 16 },
  { name: "512-2048, 8/s", prompt: "512-2048", output: "256", requests: 160, rate: 8 },
  { name: "4096-16384, 1/s", prompt: "4096-16384", output: "256", requests: 24, rate: 1 },
  // Its figure 10: parallel generation.
  ...sizes.map((samples) => ({
    name: `n = ${samples}, 16 answers/s`,
    prompt: "sharegpt",
    output: "sharegpt",
    requests: Math.max(8, Math.ceil(192 / samples)),
    rate: 16 / samples,
    samples,
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
