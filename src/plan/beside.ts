import { type IntList, Tile, tileInts } from "./list.ts";
import type { PlanLaunch } from "./plan.ts";
import { type ClassTraits, placesOf } from "./traits.ts";

/**
 * What a record costs a block that computes beside its keys, in keys that it could read: starting,
 * ending, and what others take of the memory's rate meanwhile. Fitted to steps of 60 decodes and
 * prompts of 512 and 2048 tokens on an H200.
 */
const recordKeys = 900;
/** Less work than so many keys on every processor is not worth a division. */
const leastKeys = 200;
/**
 * Memory-bound work keeps nearly all of its rate on as few of the processors: others that compute
 * longer than that are better alone first.
 */
const leastReaders = 0.5;

/**
 * Divides the processors among launches that run beside each other: those that wait for arithmetic
 * get as many as let them end with those that wait for the memory, whose blocks run on the rest,
 * and on all once the others have ended.
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
    for (let c = 0; c < this.#classes.length; c++) {
      if (this.#computes(c)) arithmetic += this.#computed[c] + this.#starts(c);
      else memory += this.#read[c];
    }
    if (Math.min(arithmetic, memory) < leastKeys * this.#processors) return 0;
    const part = arithmetic / memory;
    return part > 1 - leastReaders ? 0 : part;
  }

  /** Places that a class has of them. */
  placesOf(c: number, part: number): number {
    const places = placesOf(this.#classes[c], this.#processors);
    return this.#computes(c) ? Math.ceil(places * part) : places;
  }

  /** Lowers what launches take at once, by the part that partOf() said last. */
  limit(part: number, launches: readonly PlanLaunch[]): void {
    for (let c = 0; c < launches.length; c++) {
      if (!this.#computes(c)) continue;
      const places = this.placesOf(c, part);
      launches[c].itemsAtOnce = Math.min(launches[c].itemsAtOnce, places);
    }
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

  #starts(c: number): number {
    return this.#records[c] * this.#classes[c].cluster * recordKeys;
  }
}
