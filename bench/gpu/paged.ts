import { Attention, type AttentionOptions, createBatch, Tensor } from "../../src/index.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import type { PeerCase } from "../peers/peer.ts";
import { copiesOf, type GpuBench, runsOf } from "./bench.ts";
import { indptrOf, pagesOf } from "./pages.ts";

/** Elements of a head. */
const dim = 128;
const pageSize = 16;

/** An attention over pages of noise. */
export interface PagedWork {
  dtype: DType;
  queryHeads: number;
  kvHeads: number;
  /** Keys of each request. */
  lengths: readonly number[];
  /** New tokens of each request. */
  queryLengths: readonly number[];
  options?: Partial<AttentionOptions>;
}

/** What running a work needs, planned; `run(turn)` takes copies of the keys in turn. */
export class PagedWorld implements Disposable {
  readonly copies: number;
  readonly runs: number;
  readonly #planes: Tensor[];
  readonly #tensors: Tensor[];

  private constructor(
    bench: GpuBench,
    readonly work: PagedWork,
    readonly attention: Attention,
  ) {
    const { device } = bench;
    const { dtype, queryHeads, kvHeads, lengths, queryLengths } = work;
    const { table, stride, layout, kvLengths, count } = pagesOf({
      lengths,
      queryLengths,
      pageSize,
    });
    this.copies = copiesOf(bench, this.bytes);
    this.runs = runsOf(bench, this.copies);
    const noise = (shape: number[], seed: number) =>
      Tensor.randomNormal(device, shape, dtype, { seed });
    this.#planes = Array.from({ length: 2 * this.copies }, (_, seed) =>
      noise([count, pageSize, kvHeads, dim], seed),
    );
    const rows = [sum(queryLengths), queryHeads, dim];
    const pageTable = Tensor.from(device, table, [lengths.length, stride], "i32");
    this.#tensors = [pageTable, noise(rows, 1000), Tensor.empty(device, rows, dtype)];
    attention.plan(createBatch({ queryLengths: [...queryLengths], kvLengths, layout }));
    this.run(0);
  }

  /** Compiles, allocates and plans. Errors: CompileError, OutOfMemoryError. */
  static async create(bench: GpuBench, work: PagedWork): Promise<PagedWorld> {
    const { dtype, queryHeads, kvHeads, options } = work;
    const shape = { queryHeads, kvHeads, headDim: dim, dtype, causal: true } as const;
    return new PagedWorld(
      bench,
      work,
      await Attention.create(bench.device, { ...shape, ...options }),
    );
  }

  /** Bytes of keys and values that one run reads. */
  get bytes(): number {
    return 2 * 2 * sum(this.work.lengths) * this.work.kvHeads * dim;
  }

  /** What a peer is asked for the same work. */
  get peerCase(): Omit<PeerCase, "seconds"> {
    const { dtype, queryHeads, kvHeads, lengths, queryLengths } = this.work;
    return {
      dtype,
      batch: lengths.length,
      queryHeads,
      kvHeads,
      dim,
      queries: queryLengths,
      keys: lengths,
      causal: true,
      pageSize,
      copies: this.copies,
    };
  }

  run(turn: number): void {
    const [k, v] = this.#planes.slice(2 * (turn % this.copies));
    const [pageTable, q, out] = this.#tensors;
    this.attention.run({ q, k, v, pageTable, out });
  }

  [Symbol.dispose](): void {
    this.attention[Symbol.dispose]();
    for (const tensor of [...this.#planes, ...this.#tensors]) tensor[Symbol.dispose]();
  }
}

export function sum(counts: readonly number[]): number {
  return indptrOf(counts).at(-1)!;
}

/** All lengths, or with --quick those of two short requests. */
export function shortened({ quick }: GpuBench, lengths: readonly number[]): number[] {
  return quick ? lengths.slice(0, 2).map((length) => Math.min(length, 40)) : [...lengths];
}
