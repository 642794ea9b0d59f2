import type { Communicator } from "../comm/communicator.ts";
import type { Device } from "../device/device.ts";
import { mapRows } from "../ops/map.ts";
import { placeCandidates } from "../ops/place-candidates.ts";
import { logProbs, topK } from "../ops/top-k.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import { Tensor } from "../tensor/tensor.ts";

/**
 * What of the logits that ranks share the choice of a token needs, rising: the largest of each
 * rank, the sums of the others too, or all.
 */
export const logitParts = ["largest", "sums", "all"] as const;

/** One of {@link logitParts}. */
export type LogitParts = (typeof logitParts)[number];

/** Logits that each rank tells of a row. */
export const candidatesMost = 64;

/** What each rank tells of a step's rows beside its candidates, where the device has it. */
export interface RankFacts {
  /** By rank, 32 bits [3, rows]: status, largest logit and its log-probability in the part. */
  readonly tensors: readonly Tensor[];
  readonly rows: number;
}

/** Views of one exchange of so many rows. */
interface Views {
  readonly indices: Tensor;
  readonly values: Tensor;
  /** The largest of each row, as a column of `values`. */
  readonly first: Tensor;
  readonly status: Tensor;
  readonly largest: Tensor;
  readonly logProb: Tensor;
  readonly unread: Tensor;
  readonly own: Tensor;
  readonly all: Tensor;
  readonly placed: Parameters<typeof placeCandidates>[0];
  readonly facts: RankFacts;
}

const blockAlignment = 16;

/**
 * Logits of ranks that share a vocabulary: each finds the largest of its part, and rank 0 chooses
 * among all of these as if it had the whole rows, in one exchange of some hundred bytes for each
 * row; or all are gathered. The memory is of a fixed place, so that graphs may hold it.
 */
export class SharedLogits implements Disposable {
  readonly #device: Device;
  readonly #k: number;
  readonly #own: Tensor;
  readonly #all: Tensor;
  /** Where the device says which token the largest is, which the candidates say already. */
  readonly #unread: Tensor;
  /** All logits of all ranks, once they are wanted. */
  #gathered: Tensor | undefined;
  readonly #views: Views[] = [];

  /**
   * @param columns of each rank's part
   * @param rowsMost most rows of a step
   */
  constructor(
    private readonly comm: Communicator,
    private readonly columns: number,
    private readonly logits: Pick<Tensor, "dtype">,
    private readonly rowsMost: number,
  ) {
    this.#device = comm.device;
    this.#k = Math.min(candidatesMost, columns);
    const most = this.#blockBytes(rowsMost);
    this.#own = Tensor.zeros(comm.device, [most], "u8", "own candidates");
    this.#all = Tensor.zeros(comm.device, [comm.ranks * most], "u8", "candidates of ranks");
    this.#unread = Tensor.empty(comm.device, [rowsMost, 1], "i32", "largest tokens");
  }

  /** Queues the exchange of what is wanted of `own` [rows, columns]; on rank 0 it goes to `out`. */
  bring(own: Tensor, out: Tensor, parts: LogitParts): void {
    if (parts === "all") this.#gather(own, out);
    else this.#exchange(own, out, parts === "sums");
  }

  #gather(own: Tensor, out: Tensor): void {
    const { device, rank, ranks } = this.comm;
    const [rows, columns] = own.shape;
    const most = this.rowsMost * columns * ranks;
    this.#gathered ??= Tensor.empty(device, [most], own.dtype, "logits of ranks");
    const all = this.#gathered.slice(0, 0, rows * columns * ranks).reshape(ranks, rows, columns);
    this.comm.allGather(own, all);
    if (rank === 0) out.reshape(rows, ranks, columns).copyFrom(all.permute(1, 0, 2));
  }

  #exchange(own: Tensor, out: Tensor, withSums: boolean): void {
    const rows = own.shape[0];
    const views = (this.#views[rows] ??= this.#makeViews(rows));
    const { values, indices, status, first, largest, logProb } = views;
    topK(own, this.#k, { values, indices, status });
    if (withSums) {
      mapRows({ operation: "scale", a: first, out: largest }, {});
      logProbs(own, { top: 1, values: logProb, indices: views.unread });
    }
    this.comm.allGather(views.own, views.all);
    if (this.comm.rank === 0) placeCandidates(views.placed, out);
  }

  /** What the last exchange of so many rows told; sums where it had them. */
  facts(rows: number): RankFacts {
    return this.#views[rows].facts;
  }

  [Symbol.dispose](): void {
    const all = [this.#own, this.#all, this.#unread, this.#gathered];
    for (const made of all) made?.[Symbol.dispose]();
  }

  #blockBytes(rows: number): number {
    const bytes = rows * (this.#k * (4 + dtypeBytes(this.logits.dtype)) + 12);
    return Math.ceil(bytes / blockAlignment) * blockAlignment;
  }

  /** A block: columns of candidates, then status, largest, log-probability, then candidates. */
  #makeViews(rows: number): Views {
    const k = this.#k;
    const { dtype } = this.logits;
    const { ranks } = this.comm;
    const bytes = this.#blockBytes(rows);
    const at = (block: Tensor, offset: number, shape: number[], of: Tensor["dtype"]) =>
      Tensor.fromPointer(this.#device, block.address + offset, shape, of, { keep: block });
    const factsAt = 4 * rows * k;
    const valuesAt = factsAt + 12 * rows;
    const values = at(this.#own, valuesAt, [rows, k], dtype);
    const facts = Array.from({ length: ranks }, (_, rank) =>
      at(this.#all, rank * bytes + factsAt, [3, rows], "i32"),
    );
    return {
      indices: at(this.#own, 0, [rows, k], "i32"),
      values,
      first: values.slice(1, 0, 1),
      status: at(this.#own, factsAt, [rows], "i32"),
      largest: at(this.#own, factsAt + 4 * rows, [rows, 1], "f32"),
      logProb: at(this.#own, factsAt + 8 * rows, [rows, 1], "f32"),
      unread: this.#unread.slice(0, 0, rows),
      own: this.#own.slice(0, 0, bytes),
      all: this.#all.slice(0, 0, ranks * bytes),
      placed: {
        values: at(this.#all, valuesAt, [rows, k], dtype),
        indices: at(this.#all, 0, [rows, k], "i32"),
        rankBytes: bytes,
        ranks,
        columns: this.columns,
      },
      facts: { tensors: facts, rows },
    };
  }
}
