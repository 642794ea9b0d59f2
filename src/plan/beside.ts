import { type IntList, Tile, tileInts } from "./list.ts";
import type { PlanLaunch } from "./plan.ts";
import { type ClassTraits, placesOf } from "./traits.ts";

/**
 * What a record costs a block that computes, in keys that its processor could read meanwhile:
 * starting and ending; and, where others take the memory's whole rate beside it, what it then
 * waits. Of steps with prompts of 512 and 2048 tokens on an H200.
 */
const recordKeys = 350;
const besideKeys = 900;
/** Less work than so many keys on every processor is not worth a division. */
const leastKeys = 200;
/**
 * What a processor reads while others compute, in shares of the memory's rate: on an H200 two
 * blocks of decodes reach 49 GB/s, of which 34 are a share.
 */
const readerShares = 1.44;
/** Beside less than this part those that read have nearly the memory's rate. */
const mostBeside = 0.5;
/** With less than the rest of this those that read would be late: they are better alone. */
const mostPart = 0.9;

/**
 * Divides the processors among launches that run beside each other: those that wait for arithmetic
 * get as many as let them end with those that wait for the memory. Where the memory is what the
 * step waits for, these run on the rest, and on all once the others have ended; else on the rest
 * alone, for which they are cut.
 */
export class Division {
  readonly #classes: readonly ClassTraits[];
  readonly #processors: number;
  /** By class: keys that it reads, and those whose reading takes as long as its arithmetic. */
  readonly #read: Float64Array;
  readonly #computed: Float64Array;
  readonly #records: Float64Array;

  constructor(classes: readonly ClassTraits[], processors: number) {
    this.#classes = classes;
    this.#processors = processors;
    this.#read = new Float64Array(classes.length);
    this.#computed = new Float64Array(classes.length);
    this.#records = new Float64Array(classes.length);
  }

  /**
   * Part of the processors for launches that compute, 0: all of them are everybody's; every tile
   * has a record in each of `copies` KV heads.
   */
  partOf(tiles: IntList, copies: number): number {
    if (!this.#weigh(tiles, copies)) return 0;
    let arithmetic = 0;
    let memory = 0;
    let records = 0;
    for (let c = 0; c < this.#classes.length; c++) {
      if (!this.#computes(c)) {
        memory += this.#read[c];
        continue;
      }
      arithmetic += this.#computed[c];
      records += this.#records[c] * this.#classes[c].cluster;
    }
    const long = arithmetic + records * recordKeys;
    if (Math.min(long, memory) < leastKeys * this.#processors) return 0;
    const beside = (arithmetic + records * besideKeys) / memory;
    if (beside < mostBeside) return beside;
    const part = Math.max(mostBeside, long / (long + memory / readerShares));
    return part > mostPart ? 0 : part;
  }

  /** Places that a class has of them. */
  placesOf(c: number, part: number): number {
    const all = placesOf(this.#classes[c], this.#processors);
    if (this.#computes(c)) return Math.max(1, Math.round(all * part * this.#shareOf(c)));
    if (part < mostBeside) return all;
    let left = this.#processors;
    for (let o = 0; o < this.#classes.length; o++) {
      if (!this.#computes(o)) continue;
      const { cluster, blocksPerProcessor } = this.#classes[o];
      left -= Math.ceil((this.placesOf(o, part) * cluster) / blocksPerProcessor);
    }
    return placesOf(this.#classes[c], Math.max(1, left));
  }

  /** Lowers what launches take at once, by the part that partOf() said last. */
  limit(part: number, launches: readonly PlanLaunch[]): void {
    for (let c = 0; c < launches.length; c++) {
      const places = this.placesOf(c, part);
      launches[c].itemsAtOnce = Math.min(launches[c].itemsAtOnce, places);
    }
  }

  /** Of all that computes, what a class does. */
  #shareOf(c: number): number {
    let all = 0;
    for (let o = 0; o < this.#classes.length; o++) if (this.#computes(o)) all += this.#computed[o];
    return this.#computed[c] / all;
  }

  /** False: some launch runs beside no other. */
  #weigh({ data, length }: IntList, copies: number): boolean {
    this.#read.fill(0);
    this.#computed.fill(0);
    this.#records.fill(0);
    for (let at = 0; at < length * tileInts; at += tileInts) {
      const kernelClass = data[at + Tile.kernelClass];
      const { rowsPerKey } = this.#classes[kernelClass];
      if (rowsPerKey === undefined) return false;
      const keys = Math.max(0, data[at + Tile.kvEnd] - data[at + Tile.kvStart]) * copies;
      this.#read[kernelClass] += keys;
      this.#computed[kernelClass] += (keys * data[at + Tile.rowCount]) / rowsPerKey;
      this.#records[kernelClass] += copies;
    }
    return true;
  }

  #computes(c: number): boolean {
    return this.#computed[c] > this.#read[c];
  }
}
